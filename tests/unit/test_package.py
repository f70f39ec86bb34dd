"""What `import dsprune` gives."""

import pytest

import dsprune


def test_its_names_are_there() -> None:
    assert all(getattr(dsprune, name) is not None for name in dsprune.__all__)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match=r"module 'dsprune' has no attribute 'prune_everything'"):
        dsprune.prune_everything  # noqa: B018
