"""Methods that keep accumulators or let weights grow back, inside ZeRO: masks, memory, resume and resharding."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dsprune.methods.method import find_method
from dsprune.model.cost import rank_memory
from dsprune.recipe import Recipe
from dsprune.testing.engines import ds_config, make_recipe
from dsprune.testing.pool import RankPool
from tests.engine import accumulating

PRUNABLE = 630
PRECISIONS = {0: "fp32", 1: "bf16", 2: "fp32", 3: "bf16"}

ONE_SHOT = {"start": 3, "end": None, "first": None, "updates": None}

METHODS: dict[str, dict[str, Any]] = {
    "movement": {"method": "movement", "scope": "uniform"},
    "soft-movement": {"method": "soft-movement"},
    "snip": {"method": "snip"},
    "empirical-fisher": {"method": "empirical-fisher", "window": 2},
    "obert": {"method": "obert", "window": 3, "recomputations": 1},
    "wanda": {"method": "wanda"},
    "wanda in one shot": {"method": "wanda", "scope": "global", "curve": "one-shot", "window": 2, **ONE_SHOT},
    "rigl": {"method": "rigl"},
    "constant": {"method": "rigl", "curve": "constant", "scope": "erk", "first": None},
    "set": {"method": "set", "scope": "erk"},
    "rigl after snip": {"method": "rigl", "first_method": "snip", "start": 2, "updates": 3},
    "alternating": {"curve": "alternating", "first": None, "updates": 5},
}


def recipe_of(name: str, precision: str = "fp32") -> Recipe:
    return make_recipe(precision, **METHODS[name])


FURTHER = {
    "obert": ((1, 0), (2, 1), (3, 2), (3, 3)),
    "soft-movement": ((3, 1), (2, 3)),
    "wanda": ((1, 1), (3, 2), (2, 3), (2, 0)),
    "wanda in one shot": ((3, 3),),
    "alternating": ((1, 2), (2, 3)),
    "rigl after snip": ((2, 1), (2, 3)),
}
"""Methods with their own places."""

PLACES = [(world, stage) for world in (1, 2, 3) for stage in (0, 1, 2, 3)]
NAMES = [name for name in METHODS if name not in FURTHER]
CELLS = [
    *((*place, name) for place, name in zip(PLACES, [*NAMES, *NAMES], strict=True)),
    *((*place, name) for name, places in FURTHER.items() for place in places),
]
"""Every stage with every number of ranks, two places for each method, and those of `FURTHER`."""


@pytest.mark.parametrize(("ranks", "stage", "name"), CELLS, indirect=["ranks"])
def test_masks_memory_and_counts_are_those_of_one_process(ranks: RankPool, stage: int, name: str) -> None:
    precision = PRECISIONS[stage]
    recipe = recipe_of(name, precision)
    kept_bytes = find_method(recipe.pruning.first_method or recipe.pruning.method).bytes_per_weight()
    reads_inputs = find_method(recipe.pruning.method).reads_inputs
    inputs = 8 * 3 * (7 + 15) if reads_inputs else 0
    planned = rank_memory(PRUNABLE, PRUNABLE, stage, ranks.size, precision, kept_bytes, inputs).accumulators
    answers = ranks.run(ranks.size, accumulating.check_run, ds_config(stage, precision), recipe)
    sizes = [nbytes for nbytes, _ in answers]
    if stage == 0 or reads_inputs:
        assert sizes == [planned] * ranks.size
    else:
        assert (
            sum(sizes) == kept_bytes * PRUNABLE <= planned * ranks.size < kept_bytes * PRUNABLE + ranks.size
        )
    [*early, last] = answers[0][1]
    assert last == 0, "the last mask update lets nothing grow back"
    assert any(early) == (name in ("rigl", "constant", "set", "alternating", "rigl after snip"))


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        (0, "snip"),
        (1, "set"),
        (2, "movement"),
        (1, "soft-movement"),
        (3, "empirical-fisher"),
        (3, "rigl"),
        (3, "obert"),
        (3, "wanda"),
        (0, "wanda"),
        (2, "alternating"),
        (1, "rigl after snip"),
    ],
)
def test_resuming_between_two_mask_updates_equals_not_stopping(
    two_ranks: RankPool, stage: int, name: str, tmp_path: Path
) -> None:
    two_ranks.run(2, accumulating.check_resume, ds_config(stage), recipe_of(name), str(tmp_path))


def test_zeros_can_be_masked_that_a_later_mask_update_lets_grow_back(
    two_ranks: RankPool, tmp_path: Path
) -> None:
    recipe = make_recipe(curve="alternating", first=None, updates=3)
    two_ranks.run(2, accumulating.save, ds_config(1), recipe, str(tmp_path))
    two_ranks.run(2, accumulating.load_without_masks, ds_config(1), recipe, str(tmp_path))


def test_a_skipped_step_adds_nothing(two_ranks: RankPool) -> None:
    two_ranks.run(2, accumulating.check_skipped, ds_config(2, "bf16"), recipe_of("movement", "bf16"))


WHOLE_GRADIENTS = {
    **{
        f"fp16, stage {stage}": ds_config(stage, "fp16", gradient_accumulation_steps=2)
        | {"fp16": {"enabled": "auto", "initial_scale_power": 20}}
        for stage in (0, 1, 2, 3)
    },
    **{
        f"offload, stage {stage}": ds_config(
            stage,
            gradient_accumulation_steps=3,
            optimizer={"type": "AdamW", "params": {"lr": "auto", "weight_decay": "auto"}},
            zero_optimization={"stage": stage, "offload_optimizer": {"device": "cpu", "pin_memory": False}},
        )
        for stage in (2, 3)
    },
}


def test_neither_loss_scale_nor_micro_batches_nor_clipping_change_what_is_accumulated(
    two_ranks: RankPool,
) -> None:
    unclipped = recipe_of("movement").model_copy(update={"gradient_clipping": 0.0})
    [(_, expected), _] = two_ranks.run(2, accumulating.first_sums, ds_config(1), unclipped)
    for name, config in WHOLE_GRADIENTS.items():
        precision = name[:4] if name.startswith("fp16") else "fp32"
        recipe = recipe_of("movement", precision)
        for skipped, found in two_ranks.run(2, accumulating.first_sums, config, recipe):
            assert (skipped > 0) == (precision == "fp16"), f"{name}: the first scale overflows, and no other"
            for there, here in zip(expected, found, strict=True):
                torch.testing.assert_close(here, there, rtol=0.02, atol=1e-4)


def test_accumulators_and_marks_move_to_other_stages_and_numbers_of_ranks(
    two_ranks: RankPool, tmp_path: Path
) -> None:
    saved = {}
    for name in ("movement", "obert", "wanda", "constant"):
        [saved[name], _] = two_ranks.run(
            2, accumulating.save, ds_config(3), recipe_of(name), str(tmp_path / name)
        )
        assert any(value.any() for values in saved[name].values() for value in values)
    for world, stage in ((1, 2), (3, 1), (2, 0)):
        with RankPool(world) as pool:
            for name, expected in saved.items():
                moved = pool.run(
                    world, accumulating.load, ds_config(stage), recipe_of(name), str(tmp_path / name)
                )
                for found in moved:
                    assert list(found) == list(expected)
                    for kept, values in expected.items():
                        assert all(map(torch.equal, found[kept], values))


def test_a_checkpoint_of_another_method_is_refused(two_ranks: RankPool, tmp_path: Path) -> None:
    recipe = recipe_of("snip")
    two_ranks.run(2, accumulating.save, ds_config(1), recipe, str(tmp_path))
    other, plain = make_recipe(method="movement"), make_recipe()
    two_ranks.run(2, accumulating.save, ds_config(1), recipe_of("rigl"), str(tmp_path / "marked"))
    folder = str(tmp_path / "marked")
    for message in two_ranks.run(2, accumulating.error_of_loading, ds_config(1), make_recipe(), folder):
        assert "has regrown weights, but pruning.method=" in message
    for wrong, kept in ((other, "movement (float32)"), (plain, "no accumulators")):
        for message in two_ranks.run(2, accumulating.error_of_loading, ds_config(1), wrong, str(tmp_path)):
            assert "sensitivity (float32)" in message
            assert kept in message
    said = two_ranks.run(2, accumulating.load_without_masks, ds_config(1), recipe, str(tmp_path))
    assert "pruning.method=snip: sensitivity begins at zero" in said[0]
