"""The names of `import dsprune`, and the places of its version."""

from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import dsprune

ROOT = Path(__file__).resolve().parents[2]


def test_its_names_are_there() -> None:
    assert all(getattr(dsprune, name) is not None for name in dsprune.__all__)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match=r"module 'dsprune' has no attribute 'prune_everything'"):
        dsprune.prune_everything  # noqa: B018


def test_package_citation_and_changelog_name_the_same_version() -> None:
    assert version("dsprune") == dsprune.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == dsprune.__version__
    assert f"## [{dsprune.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
