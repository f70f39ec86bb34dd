"""A CUDA build of torch on a machine without a GPU, as `pip install torch` brings it, uses the CPU."""

import pytest
import torch

from dsprune.ranks.group import select_device
from dsprune.ranks.ranks import Ranks
from dsprune.utils.randomness import random_state, restore_random_state


@pytest.fixture(autouse=True)
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


def test_a_rank_runs_on_the_cpu() -> None:
    assert select_device(Ranks(0, 0, 1)) == torch.device("cpu")


def test_the_random_state_is_that_of_the_cpu() -> None:
    state = random_state()
    drawn = torch.rand(3)
    restore_random_state(state)
    assert "random.accelerator" not in state
    assert torch.equal(torch.rand(3), drawn)
