"""A parameter that a step does not use has no gradient in it, as in torch."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dsprune.ranks.collectives import Comm
from dsprune.testing.engines import ds_config, make_recipe, pruning_engine
from dsprune.testing.pool import RankPool
from tests.engine.scenarios import pruner_of, train_step


def first_moments(comm: Comm, config: dict[str, Any]) -> list[dict[str, Tensor]]:
    """This rank's first moments after a step, and after one that leaves out the first block."""
    found = []
    with pruning_engine(config, make_recipe(start=3)) as engine:
        for step in range(2):
            train_step(engine, step)
            layout = pruner_of(engine).layout
            states = {shard.tensor.name: layout.states(i) for i, shard in enumerate(layout.shards)}
            found.append({name: state["exp_avg"].clone() for name, state in states.items() if state})
            engine.module.blocks[0].forward = lambda x: x
    return found


OFFLOAD = {"offload_optimizer": {"device": "cpu", "pin_memory": False}}


@pytest.mark.parametrize(
    ("stage", "settings"), [*((stage, {}) for stage in range(4)), *((stage, OFFLOAD) for stage in (1, 2, 3))]
)
def test_a_gradient_is_applied_once(two_ranks: RankPool, stage: int, settings: dict[str, Any]) -> None:
    section = {"stage": stage, **settings}
    config = ds_config(stage, zero_optimization=section, zero_force_ds_cpu_optimizer=False)
    for before, after in two_ranks.run(2, first_moments, config):
        for tensor, moment in before.items():
            is_unused = tensor.startswith("blocks.0.")
            assert torch.allclose(after[tensor], 0.9 * moment, atol=1e-7) == is_unused, tensor
