"""`dsprune.pruning` around loops without dsprune: its messages, and its guards."""

import math
from pathlib import Path
from typing import Any

import pytest

from dsprune.testing.pool import RankPool
from tests.engine import pruned_scripts


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        (0, "dsprune: an engine was made and took none of the recipe's 8 steps"),
        (5, "training ended at step 5, and the last mask update is at step 6 of 8: the sparsity is 0."),
        (7, "dsprune: the model is of step 7 of the recipe's 8: "),
        (8, ""),
        (10, "dsprune: the recipe ended at step 8, and training continues"),
    ],
)
def test_a_loop_that_ends_at_another_step_is_told(two_ranks: RankPool, steps: int, says: str) -> None:
    first, _ = two_ranks.run(2, pruned_scripts.said_after, steps)
    assert says in first
    assert any(f"dsprune: the {what} " in first for what in ("model", "recipe")) == (steps in (7, 10))


def test_an_engine_that_was_made_behind_its_back_is_refused(two_ranks: RankPool) -> None:
    for said in two_ranks.run(2, pruned_scripts.messages_of_an_import):
        assert "pruning: AdamW steps, but no DeepSpeed engine" in said
        assert "not an `initialize` imported before" in said


def test_a_scheduler_that_is_made_after_the_engine_is_replaced(two_ranks: RankPool) -> None:
    first, _ = two_ranks.run(2, pruned_scripts.messages_of_a_later_scheduler)
    assert "the recipe's learning rate replaces the scheduler LambdaLR" in first
    assert "remove the scheduler" not in first


@pytest.mark.parametrize("optimizer", [{}, {"optimizer": {"type": None}}])
def test_the_engine_of_a_frozen_model_prunes_nothing(two_ranks: RankPool, optimizer: dict[str, Any]) -> None:
    found = two_ranks.run(2, pruned_scripts.engines_beside_a_reference_model, optimizer)
    assert found == 2 * [(1, "DeepSpeedEngine")]


@pytest.mark.parametrize(("steps", "says"), [(2, "model saved at step 2, sparsity 0.5"), (7, "")])
def test_a_model_that_is_saved_too_early_is_called_so(
    two_ranks: RankPool, steps: int, says: str, tmp_path: Path
) -> None:
    first, second = two_ranks.run(2, pruned_scripts.messages_of_a_model, str(tmp_path / "model"), steps)
    assert says in first
    assert ("saved at" in first) == (says != "")
    assert "saved at" not in second


@pytest.mark.parametrize(("stage", "gathers"), [(3, False), (3, True), (2, False)])
def test_a_trainer_that_saves_no_weights_is_told(two_ranks: RankPool, stage: int, gathers: bool) -> None:
    first, second = two_ranks.run(2, pruned_scripts.said_by_the_trainer, stage, gathers)
    told = "stage3_gather_16bit_weights_on_model_save=true"
    assert (told in first) == (stage == 3 and not gathers)
    assert told not in second


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"optim": "adamw_torch", "weight_decay": 0.01, "adam_beta2": 0.999}, None),
        ({"optim": "sgd"}, "optim=sgd has no effect beside the section optimizer of the ds_config, "),
        (
            {"weight_decay": 0.1},
            "weight_decay=0.1 has no effect beside the section optimizer of the ds_config, ",
        ),
        ({"adam_beta1": 0.8}, "adam_beta1=0.8 has no effect"),
        ({"adam_beta2": 0.95}, "adam_beta2=0.95 has no effect"),
        ({"adam_epsilon": 1e-6}, "adam_epsilon=1e-06 has no effect"),
    ],
)
def test_settings_of_the_optimizer_that_the_trainer_ignores_are_refused(
    one_rank: RankPool, asked: dict[str, Any], says: str | None
) -> None:
    [said] = one_rank.run(1, pruned_scripts.said_of_the_optimizer_of_the_trainer, asked)
    assert ("has no effect" in said) == (says is not None)
    assert says is None or says in said


def test_a_trainer_trains_once(two_ranks: RankPool) -> None:
    for said in two_ranks.run(2, pruned_scripts.messages_of_a_second_training):
        assert "Trainer: train() starts at step 0, but its engine is at step 1, " in said
        assert "make a new Trainer" in said


@pytest.mark.parametrize(("steps", "fails"), [(1, False), (2, True)])
def test_a_step_of_the_trainer_is_one_of_its_engine(two_ranks: RankPool, steps: int, fails: bool) -> None:
    for said in two_ranks.run(2, pruned_scripts.messages_of_steps_of_the_trainer, steps):
        assert (
            "Trainer: step 1 ended with its engine at step 2: accelerator.backward steps" in said
        ) == fails


def test_a_trainer_saves_the_masks_after_the_context_too(one_rank: RankPool, tmp_path: Path) -> None:
    [files] = one_rank.run(1, pruned_scripts.saved_after_the_context, str(tmp_path))
    assert {"model.safetensors", "masks-00000-of-00001.safetensors", "dsprune.json"} <= set(files)


@pytest.mark.parametrize(
    ("settings", "attributes", "factor"),
    [
        ({}, {}, 1),
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}, {}, 3),
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "torch_compile": True}, {}, 3),
        (
            {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3},
            {"accepts_loss_kwargs": False},
            1,
        ),
    ],
)
def test_a_loss_that_the_trainer_multiplies_is_told(
    one_rank: RankPool, tmp_path: Path, settings: dict[str, Any], attributes: dict[str, Any], factor: int
) -> None:
    [(says, loss)] = one_rank.run(
        1, pruned_scripts.said_of_the_loss_of_the_trainer, str(tmp_path), settings, attributes
    )
    assert loss == pytest.approx(factor * math.log(2), rel=0.05)
    assert (f"multiplies its loss and gradients by {factor}, " in says) == (factor > 1)
    assert ("accepts_loss_kwargs = False" in says) == (factor > 1)


@pytest.mark.parametrize("backwards", [1, 2])
def test_a_step_of_accelerate_is_one_of_its_engine(two_ranks: RankPool, backwards: int) -> None:
    for said in two_ranks.run(2, pruned_scripts.messages_of_backwards_of_accelerate, backwards):
        assert ("accelerate: 2 calls of accelerator.backward before one" in said) == (backwards == 2)


@pytest.mark.parametrize("max_norm", [0.1, float("inf"), 0.5])
def test_accelerate_clips_where_its_engine_does(two_ranks: RankPool, max_norm: float) -> None:
    for said in two_ranks.run(2, pruned_scripts.messages_of_clipping_of_accelerate, max_norm):
        assert ("max_norm=0.5 (TrainingArguments: max_grad_norm), but DeepSpeed clips, at" in said) == (
            max_norm == 0.5
        )


@pytest.mark.parametrize(("micro_batch", "accumulation"), [(6, 1), (2, 3)])
def test_accumulation_that_the_recipe_does_not_ask_for_is_said(
    two_ranks: RankPool, micro_batch: int, accumulation: int
) -> None:
    first, second = two_ranks.run(2, pruned_scripts.messages_of_accumulation, micro_batch)
    assert ("an optimizer step is" in first) == (accumulation > 1)
    assert "an optimizer step is" not in second
    if accumulation > 1:
        assert "3 forward passes a rank" in first
        assert '"train_batch_size": 12, "train_micro_batch_size_per_gpu": 2' in first


def test_accelerate_counts_all_ranks_on_cpus(two_ranks: RankPool) -> None:
    for alone, found, message in two_ranks.run(2, pruned_scripts.processes_of_accelerate):
        assert (alone, found) == (1, 2)
        assert message.startswith("accelerate: counts 1 process, but 2 ranks train")
        assert "PartialState(cpu=True)" in message
