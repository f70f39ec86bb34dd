"""Several losses in one step: their gradients are added, or the run ends where DeepSpeed would drop some."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor

import dsprune
from dsprune.ranks.collectives import Comm
from dsprune.testing.engines import BATCH, ds_config, make_recipe, pruning_engine
from dsprune.testing.pool import RankPool
from dsprune.testing.tiny import TinyModel, batch
from tests.engine.pruned_scripts import said
from tests.engine.scenarios import pruner_of

Engine = dsprune.PruningEngine
FIRST, SECOND = batch(0, BATCH, 0, 1), batch(1, BATCH, 0, 1)


def add_the_losses(engine: Engine) -> None:
    engine.backward(engine(**FIRST).loss + engine(**SECOND).loss)


def one_after_the_other(engine: Engine) -> None:
    engine.backward(engine(**FIRST).loss)
    engine.backward(engine(**SECOND).loss)


def both_forward_first(engine: Engine) -> None:
    losses = engine(**FIRST).loss, engine(**SECOND).loss
    for loss in losses:
        engine.backward(loss)


def by_torch_one_after_the_other(engine: Engine) -> None:
    engine(**FIRST).loss.backward()
    engine(**SECOND).loss.backward()


def by_torch_and_the_engine(engine: Engine) -> None:
    engine(**FIRST).loss.backward()
    engine.backward(engine(**SECOND).loss)


class Outputs(dict[str, Tensor]):
    """Outputs as those of transformers: DeepSpeed supports `loss.backward()` for the values of a dict."""

    def __getattr__(self, name: str) -> Tensor:
        return self[name]


class Model(TinyModel):
    def forward(self, tokens: Tensor, labels: Tensor) -> Any:
        return Outputs(vars(super().forward(tokens, labels)))


def load_between(engine: Engine, folder: Path) -> None:
    engine.save_checkpoint(folder)
    engine.backward(engine(**FIRST).loss)
    engine.load_checkpoint(folder)
    engine.backward(engine(**SECOND).loss)


def second_alone(engine: Engine) -> None:
    engine.backward(engine(**SECOND).loss)


def moments(
    comm: Comm, stage: int, act: Callable[[Engine], None], changes: Mapping[str, Any] = MappingProxyType({})
) -> list[Tensor] | str:
    """The first moments after a step on two losses, or the error that ends the run."""
    with pruning_engine(ds_config(stage, **changes), make_recipe(), model=Model) as engine:
        try:
            act(engine)
        except dsprune.RunFailedError as error:
            return str(error)
        engine.step()
        layout = pruner_of(engine).layout
        return [layout.states(index)["exp_avg"].clone() for index in range(len(layout.shards))]


@pytest.mark.parametrize(
    ("stage", "act"),
    [
        *((0, act) for act in (one_after_the_other, both_forward_first)),
        *((3, act) for act in (one_after_the_other, by_torch_one_after_the_other, by_torch_and_the_engine)),
    ],
)
def test_the_gradients_of_two_losses_are_added(
    one_rank: RankPool, stage: int, act: Callable[[Engine], None]
) -> None:
    [found] = one_rank.run(1, moments, stage, act)
    [expected] = one_rank.run(1, moments, stage, add_the_losses)
    assert all(map(torch.allclose, found, expected)), found


@pytest.mark.parametrize(
    ("stage", "act"),
    [
        *product((1, 2), (one_after_the_other, both_forward_first)),
        *product((1, 2), (by_torch_one_after_the_other, by_torch_and_the_engine)),
        (3, both_forward_first),
    ],
)
def test_gradients_that_deepspeed_would_drop_end_the_run(
    one_rank: RankPool, stage: int, act: Callable[[Engine], None]
) -> None:
    [error] = one_rank.run(1, moments, stage, act)
    assert error.startswith(f"backward: called twice before engine.step() at ZeRO stage {stage}, ")


@pytest.mark.parametrize("stage", range(4))
def test_loading_drops_the_gradients_of_an_interrupted_step(
    one_rank: RankPool, stage: int, tmp_path: Path
) -> None:
    [found] = one_rank.run(1, moments, stage, partial(load_between, folder=tmp_path))
    [expected] = one_rank.run(1, moments, stage, second_alone)
    assert all(map(torch.equal, found, expected)), found


def end_in_the_middle(engine: Engine, folder: Path) -> None:
    """Load a checkpoint after half of a step, then take a step."""
    engine.save_checkpoint(folder)
    half_a_step(engine, 0)
    engine.load_checkpoint(folder)
    half_a_step(engine, 1)
    engine.backward(engine(**batch(2, BATCH // 2, 0, 1)).loss)


def not_in_the_middle(engine: Engine) -> None:
    half_a_step(engine, 1)
    engine.backward(engine(**batch(2, BATCH // 2, 0, 1)).loss)


def half_a_step(engine: Engine, number: int) -> None:
    engine.backward(engine(**batch(number, BATCH // 2, 0, 1)).loss)
    engine.step()


@pytest.mark.parametrize(("stage", "offload"), [(0, "none"), *product((1, 2, 3), ("none", "cpu"))])
def test_loading_starts_an_interrupted_step_again(
    one_rank: RankPool, stage: int, offload: str, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"gradient_accumulation_steps": 2}
    if stage:
        changes["zero_optimization"] = {"stage": stage, "offload_optimizer": {"device": offload}}
        changes["zero_force_ds_cpu_optimizer"] = False
    [found] = one_rank.run(1, moments, stage, partial(end_in_the_middle, folder=tmp_path), changes)
    [expected] = one_rank.run(1, moments, stage, not_in_the_middle, changes)
    assert all(map(torch.equal, found, expected)), found


def said_when_saved(comm: Comm, folder: Path, halves: int) -> str:
    with pruning_engine(ds_config(2, gradient_accumulation_steps=2), make_recipe()) as engine:
        for number in range(halves):
            half_a_step(engine, number)
        return said(lambda: engine.save_checkpoint(folder))


@pytest.mark.parametrize("halves", [0, 1, 2, 3])
def test_a_checkpoint_without_the_gradients_of_half_a_step_is_told(
    one_rank: RankPool, halves: int, tmp_path: Path
) -> None:
    [says] = one_rank.run(1, said_when_saved, tmp_path, halves)
    assert ("save_checkpoint: called after micro-batch 1 of 2, " in says) == (halves in (1, 3))
    assert ("micro-batch" in says) == (halves in (1, 3))


def said_after_two_losses(comm: Comm, folder: Path) -> str:
    with pruning_engine(ds_config(0, gradient_accumulation_steps=2), make_recipe()) as engine:
        one_after_the_other(engine)
        return said(lambda: engine.save_checkpoint(folder))


def test_two_losses_are_one_micro_batch(one_rank: RankPool, tmp_path: Path) -> None:
    [says] = one_rank.run(1, said_after_two_losses, tmp_path)
    assert "save_checkpoint: called after micro-batch 1 of 2, " in says
