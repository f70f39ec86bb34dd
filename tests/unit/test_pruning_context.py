"""`dsprune.pruning` where no engine is made, and what it changes in transformers' Trainer."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn
from transformers import TrainerState, TrainingArguments
from transformers.trainer_callback import TrainerControl

import dsprune
from dsprune.schedule import recipe_timetable
from dsprune.testing.engines import make_recipe


def test_an_optimizer_that_steps_without_an_engine_is_refused_at_its_first_step() -> None:
    model = nn.Linear(2, 2)
    weight = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.ones(2)).sum().backward()
    with (
        pytest.raises(dsprune.UserError, match=r"^pruning: SGD steps, and no DeepSpeed engine.*ds_config"),
        dsprune.pruning(make_recipe()),
    ):
        optimizer.step()
    assert torch.equal(model.weight, weight)
    optimizer.step()  # the context is closed
    assert not torch.equal(model.weight, weight)


def test_another_recipe_in_a_context_is_refused() -> None:
    recipe = make_recipe()
    with (
        pytest.raises(dsprune.UserError, match=r"^initialize: called inside of dsprune.pruning, .*recipe"),
        dsprune.pruning(recipe),
    ):
        dsprune.initialize(model=nn.Linear(2, 2), config={}, recipe=recipe)


def test_a_context_without_an_engine_is_refused() -> None:
    with (
        pytest.raises(dsprune.UserError, match=r"^pruning: nothing trained, and no DeepSpeed engine"),
        dsprune.pruning(make_recipe()),
    ):
        pass


@pytest.mark.parametrize(("step", "best"), [(0, None), (9, None), (10, 0.7)])
def test_the_best_model_of_a_trainer_is_one_after_the_last_mask_update(step: int, best: float | None) -> None:
    timetable = recipe_timetable(make_recipe(), None)
    assert timetable.updates[-1].step == 9
    engine: Any = SimpleNamespace(timetable=timetable, applied_steps=step)
    state = TrainerState(best_metric=0.7, best_global_step=step, best_model_checkpoint="checkpoint")
    unused = cast(TrainingArguments, None)
    dsprune.TrainerCallback(engine).on_step_begin(unused, state, TrainerControl())
    assert state.best_metric == best
    assert (state.best_model_checkpoint is None) == (best is None)
