"""Recipes of published benchmarks have the numbers of their sources, and docs/recipes.md agrees with the recipes."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dsprune.recipe import load_recipe
from dsprune.schedule import recipe_timetable
from dsprune.utils.documents import read_yaml

ROOT = Path(__file__).resolve().parents[2]
TABLES = re.findall(
    r"^### `([\w-]+)`\n\n(.*?)(?=\n\n|\Z)",
    (ROOT / "docs" / "recipes.md").read_text(),
    re.DOTALL | re.MULTILINE,
)
BENCHMARKS = sorted(
    path.stem for path in (ROOT / "dsprune" / "recipes").glob("*.yaml") if path.stem[:4] in ("ober", "smc-")
)


def rows_of(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def value_of(values: dict[str, Any], field: str) -> Any:
    section, _, key = field.partition(".")
    return values[section][key] if key else values[section]


@pytest.mark.parametrize(("name", "table"), TABLES, ids=[name for name, _ in TABLES])
def test_the_tables_are_true_and_say_why_a_recipe_differs(name: str, table: str) -> None:
    values = load_recipe(name).model_dump(mode="json")
    for field, original, here, why, source in rows_of(table):
        assert read_yaml(here, field) == value_of(values, field.strip("`")), field
        assert source
        is_same = bool(re.fullmatch(r"[\w./ %\[\],-]+", original)) and read_yaml(
            original, field
        ) == read_yaml(here, field)
        assert is_same != bool(why), field


def test_every_benchmark_has_a_table() -> None:
    others = {"smc-translation-2", "smc-translation-5"}  # as smc-translation-10
    assert {name for name, _ in TABLES} >= set(BENCHMARKS) - others
    assert all(len(rows_of(table)) >= 3 for _, table in TABLES)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_header_says_what_equals_the_original_and_what_differs(name: str) -> None:
    header = (ROOT / "dsprune" / "recipes" / f"{name}.yaml").read_text().partition("\nmodel:")[0]
    assert re.search(r"^# Source: .*^# Equal:\n#   .*^# Differs:\n#   ", header, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", [*BENCHMARKS, "gmp-glue", "gmp-squad", "mlperf-95"])
def test_what_reproduces_others_has_the_dropout_of_the_model(name: str) -> None:
    pruned = load_recipe(name, ["pruning.sparsity=0.9", "distillation.teacher=t"])
    assert pruned.dropout is None


@pytest.mark.parametrize("target", [0.8, 0.9, 0.97])
def test_obert_prunes_seven_times_and_its_dense_baseline_has_the_same_rates(target: float) -> None:
    pruned = recipe_timetable(load_recipe("obert-squad", [f"pruning.sparsity={target}"]), 10)
    dense = recipe_timetable(load_recipe("obert-squad-dense"), 10)
    cubic = [0.7 + (target - 0.7) * (1 - (1 - i / 6) ** 3) for i in range(7)]
    assert [update.step for update in pruned.updates] == [20, 60, 100, 140, 180, 220, 260]
    assert [update.sparsity for update in pruned.updates] == pytest.approx(cubic)
    assert [pruned.lr_multiplier(step) for step in range(300)] == [dense.lr_multiplier(s) for s in range(300)]


def test_obert_upstream_prunes_every_quarter_of_three_epochs() -> None:
    recipe = load_recipe("obert-upstream")
    assert recipe.task is not None
    made = recipe_timetable(recipe, 12 * 100)  # three copies of the text are one epoch
    assert [update.step for update in made.updates] == [100 * i for i in range(12)]
    assert made.lr_multiplier(99) == pytest.approx(0.01, abs=0.01)
    assert [made.lr_multiplier(step) for step in (0, 100, 1100, 1200)] == pytest.approx([1, 1, 1, 0.01])


def test_sparse_transfer_decays_once_and_keeps_its_masks() -> None:
    made = recipe_timetable(load_recipe("obert-transfer"), 10)
    assert [(update.step, update.sparsity) for update in made.updates] == [(0, 0.9)]
    assert [1.5e-4 * made.lr_multiplier(step) for step in (0, 80)] == pytest.approx([1.5e-4, 1.5e-6])


def test_the_benchmark_prunes_at_its_four_steps_and_at_the_target() -> None:
    made = recipe_timetable(load_recipe("smc-gmp"), None)
    shares = [update.sparsity / 0.488 for update in made.updates]
    assert [update.step for update in made.updates] == [500, 1000, 1500, 2000, 2400]
    assert shares == pytest.approx([0.259, 0.704, 0.921, 0.993, 1], abs=1e-3)


def test_gts_halves_both_of_its_rates_every_twenty_epochs() -> None:
    recipe = load_recipe("smc-arithmetic")
    made = recipe_timetable(recipe, 10)
    rates = [1e-3 * made.lr_multiplier(10 * epoch) for epoch in (0, 19, 20, 39, 40, 49)]
    assert rates == [1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4, 2.5e-4]
    assert recipe.learning_rate.peak == 1e-3
    assert 1e-3 * recipe.learning_rate.scale["encoder.*"] == pytest.approx(8e-6)


def test_the_rate_of_a_protein_model_is_that_of_one_cycle_stepped_once_an_epoch() -> None:
    recipe = load_recipe("smc-protein")
    made = recipe_timetable(recipe, 640)
    rates = [1e-6 * made.lr_multiplier(640 * epoch + step) for epoch in range(4) for step in (0, 639)]
    assert rates[::2] == rates[1::2]
    assert rates[::2] == pytest.approx([4e-8, 8.1e-7, 2.8e-7, 4e-12], rel=2e-2)
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    scheduler, betas = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-6, 4), []
    for _ in range(4):
        betas.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        scheduler.step() if len(betas) < 4 else None
    first, peak = recipe.optimizer.betas[0], recipe.learning_rate.beta_at_peak
    moved = [first + (peak - first) * made.height(640 * epoch + 9) for epoch in range(4)]
    assert moved == pytest.approx(betas)
    assert recipe.learning_rate.peak == 1e-6
