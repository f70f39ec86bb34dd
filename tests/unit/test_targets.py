"""Several targets: everything scales with the log compression, and the law has an inverse."""

from pathlib import Path

import pytest
from transformers import BertConfig

from dsprune.commands.cli import run_command
from dsprune.commands.plan.make import make_plan
from dsprune.commands.plan.targets import plan_targets, print_max_target
from dsprune.errors import UserError
from dsprune.recipe import Recipe, load_recipe
from dsprune.schedule.law import (
    first_sparsity,
    log_compression,
    max_target,
    scaled_epochs,
    scaled_to,
    scaled_updates,
)
from tests.printing import printed

TARGETS = (0.5, 0.8, 0.9, 0.97)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("bert")
    BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=100
    ).save_pretrained(folder)
    return load_recipe("glue-90", [f"model.path={folder}"])


@pytest.mark.parametrize("target", TARGETS)
def test_the_law_is_its_own_inverse(target: float) -> None:
    assert max_target(scaled_epochs(target)) == pytest.approx(target)


@pytest.mark.parametrize("target", TARGETS)
def test_where_the_law_rules_scaling_is_the_law(recipe: Recipe, target: float) -> None:
    timetable = make_plan(scaled_to(recipe, target), 1, 3200).timetable
    assert timetable.total_steps == round(100 * scaled_epochs(target))
    assert len(timetable.updates) == scaled_updates(target)
    assert timetable.updates[0].sparsity == pytest.approx(first_sparsity(target))
    assert timetable.updates[-1].sparsity == target


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_set_by_hand_scales_with_the_log_compression(recipe: Recipe, target: float) -> None:
    values = {**recipe.model_dump(), "budget": {"epochs": 6, "batch": 32}}
    values["pruning"] = {"sparsity": 0.9, "first": 0.5, "updates": 10, "start": "10 %", "end": "5 epochs"}
    values["learning_rate"] |= {"warmup": "1 epochs", "rewind_at": ["3 epochs"], "hold": "2 steps"}
    values["distillation"] = {"teacher": "t", "hardness": {"first": 0, "final": 1, "start": "4 epochs"}}
    scaled, ratio = (
        scaled_to(Recipe.model_validate(values), target),
        log_compression(target) / log_compression(0.9),
    )
    assert scaled.budget.epochs == pytest.approx(6 * ratio)
    assert log_compression(scaled.pruning.first or 0) == pytest.approx(ratio * log_compression(0.5))
    assert scaled.pruning.updates == max(2, round(10 * ratio))
    assert scaled.pruning.end.amount == pytest.approx(5 * ratio)
    assert str(scaled.pruning.start) == "10 %"
    rate, hardness = scaled.learning_rate, scaled.distillation.hardness
    assert [rate.warmup.amount, rate.rewind_at[0].amount] == pytest.approx([ratio, 3 * ratio])
    assert str(rate.hold) == "2 steps", "a distance"
    assert (hardness.start.amount, str(hardness.end)) == (pytest.approx(4 * ratio), "100 %")


def test_the_own_target_changes_nothing(recipe: Recipe) -> None:
    assert scaled_to(recipe, 0.9) == recipe


def test_targets_are_tabled_and_drawn(recipe: Recipe, tmp_path: Path) -> None:
    picture = tmp_path / "targets.svg"
    text = printed(plan_targets, recipe, [0.9, 0.5], 1, 3200, picture)
    rows = [line.split() for line in text.splitlines() if line.strip().startswith(("50 %", "90 %"))]
    assert [row[0] for row in rows] == ["50", "90"]
    assert "3,000" in rows[1]
    assert "The law is dsprune's own" in text
    drawn = picture.read_text()
    assert drawn.count("<!-- 50 % -->") == drawn.count("<!-- 90 % -->") == 1, "in the legend"


def test_a_budget_is_answered_with_a_target(recipe: Recipe) -> None:
    text = printed(print_max_target, recipe, 3000, 1, 3200)
    assert "3,000 steps are 30 epochs of 100 steps: by the law long enough for a target up to 90 %." in text
    assert "The recipe's 90 % would take 3,000 steps." in text


def test_what_cannot_be_answered(recipe: Recipe) -> None:
    dense = recipe.model_copy(update={"pruning": None})
    with pytest.raises(UserError, match="--target: the recipe prunes nothing: add a section pruning"):
        printed(plan_targets, dense, [0.5], 1, 3200, None)
    budget = recipe.budget.model_copy(update={"steps": 100})
    in_steps = recipe.model_copy(update={"budget": budget, "task": None})
    with pytest.raises(
        UserError, match="--steps: the steps in an epoch are not known: give --train-examples"
    ):
        printed(print_max_target, in_steps, 100, 1, None)


@pytest.mark.parametrize("value", ["nan", "inf", "2", "1", "0", "-0.5"])
@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["plan", "sentiment-90"], "--target"),
        (["suite", "guidelines", "--dry-run"], "--sparsity"),
        (["analyze", "sentiment-90"], "--sparsity"),
    ],
)
def test_an_option_that_is_no_sparsity_is_refused(
    words: list[str], option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command([*words, option, value]) == 2
    assert f"Invalid value for '{option}': {float(value)} is not between 0 and 1" in capsys.readouterr().err
