"""Functions for the ranks to test the launches of an accelerator; its kernels are interpreted on CPU tensors."""

from collections import Counter
from typing import Any
from unittest import mock

from dsprune.kernels import accelerator
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Recipe
from tests.engine import scenarios

__all__ = ["check_invariants"]


def check_invariants(comm: Comm, config: dict[str, Any], recipe: Recipe) -> tuple[int, dict[str, int]]:
    """Run the scenario, and return the digest of the masks, and the launches of each kernel."""
    names: list[str] = []
    launch = accelerator._launch

    def count(name: str, *args: Any, **types: Any) -> None:
        names.append(name)
        launch(name, *args, **types)

    with mock.patch.multiple(accelerator, DEVICES=("cpu",), _launch=count):
        digest, _ = scenarios.check_invariants(comm, config, recipe)
    return digest, Counter(names)
