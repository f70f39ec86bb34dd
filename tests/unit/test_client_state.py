"""The objects that a script may add to a checkpoint: those that can be read without running code."""

import random
from argparse import Namespace
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dsprune.errors import UserError
from dsprune.zero.pickles import check_client_state, read_pickle


class Mode(Enum):
    TRAIN = 1


def test_arguments_arrays_and_random_states_are_read_again(tmp_path: Path) -> None:
    state: dict[str, Any] = {
        "args": Namespace(output=Path("out"), rates=[0.1], inner=Namespace(began=datetime(2026, 1, 1))),
        "best": np.float32(0.5),
        "random": random.getstate(),
        "numpy": np.random.default_rng(0).bit_generator.state,
        "names": {"a", "b"},
        "weights": torch.ones(2),
    }
    check_client_state(state | {"numpy before 1.17": np.random.get_state(), "order": np.arange(3)})
    torch.save(state, tmp_path / "state.pt")
    found = read_pickle(tmp_path / "state.pt")
    assert torch.equal(found.pop("weights"), state.pop("weights"))
    assert found == state


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Mode.TRAIN, rf"^client_state: mode: a Mode, .*it holds {__name__}.Mode"),
        ([{"of": print}], r"^client_state: mode: a list, .*it holds (builtins\.)?print\)"),
        (lambda: 1, "^client_state: mode: a function, .*pickle"),
    ],
    ids=["enumeration", "function", "lambda"],
)
def test_what_could_not_be_read_again_is_refused(value: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_client_state({"epoch": 1, "mode": value})
