"""The random generators continue from a restored state."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from dsprune.utils.randomness import random_state, restore_random_state


@pytest.fixture(autouse=True)
def undisturbed() -> Iterator[None]:
    """Restore the generators for other tests."""
    python, numpy, torchs = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(torchs)


def draw() -> list[float]:
    """Draw uniform and normal numbers; normal ones are drawn in pairs."""
    return [
        *(random.random(), random.gauss(0, 1), np.random.random(), np.random.standard_normal()),
        *torch.rand(2).tolist(),
        *torch.randn(3).tolist(),
    ]


@pytest.mark.parametrize("spare", [False, True], ids=["no spare", "a spare normal number"])
def test_it_goes_on_where_it_was(spare: bool) -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    if spare:
        draw()
    state = random_state()
    expected = draw()
    draw()
    restore_random_state(state)
    assert draw() == expected
