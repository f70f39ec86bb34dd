"""A checkpoint is resharded to any other ZeRO stage and number of ranks, with the same masks bit for bit."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
import torch

from dsprune.errors import UserError
from dsprune.recipe import Recipe
from dsprune.testing.engines import ds_config, make_recipe, scaled
from dsprune.testing.pool import RankPool
from tests.engine import moving
from tests.engine.moving import Outcome

STAGES, WORLDS = (0, 1, 2, 3), (1, 2, 3, 4)
PLACES = [(stage, world) for stage in STAGES for world in WORLDS]


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[int, RankPool]]:
    with ExitStack() as stack:
        yield {world: stack.enter_context(RankPool(world)) for world in WORLDS}


def precision_of(stage: int, world: int) -> str:
    return "bf16" if (stage // 2 + world) % 2 else "fp32"


def recipe_for(precision: str) -> Recipe:
    """A recipe with four parameter groups: with and without weight decay, each at two learning rates."""
    return scaled(make_recipe(precision), **{"blocks.1.*": 0.25})


Saved = Callable[[int, int], tuple[Path, Outcome]]


@pytest.fixture(scope="module")
def saved(pools: dict[int, RankPool], tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The checkpoint of a place, which is made on first use, and the end of the run that wrote it."""

    @cache
    def save(stage: int, world: int) -> tuple[Path, Outcome]:
        precision, folder = precision_of(stage, world), tmp_path_factory.mktemp(f"{stage}-{world}-")
        args = ds_config(stage, precision), recipe_for(precision), str(folder)
        return folder, pools[world].run(world, moving.train_and_save, *args)[0]

    return save


def source(stage: int, world: int) -> tuple[int, int]:
    """A source for each place: each place is a source, and all pairs of stages and of numbers of ranks occur."""
    return world % 4, stage + 1


def test_every_pair_of_stages_and_of_worlds_comes_up() -> None:
    moves = [(source(*here), here) for here in PLACES]
    assert {there for there, _ in moves} == set(PLACES)
    for number in (0, 1):
        assert len({(there[number], here[number]) for there, here in moves}) == 16
        for end in (0, 1):
            assert len({(precision_of(*move[0]), move[end][number]) for move in moves}) == 8


@pytest.mark.parametrize(("stage", "world"), PLACES)
def test_a_checkpoint_goes_on_elsewhere(
    pools: dict[int, RankPool], saved: Saved, stage: int, world: int
) -> None:
    there = source(stage, world)
    folder, (masks, weights) = saved(*there)
    precision = precision_of(*there)
    args = ds_config(stage, precision), recipe_for(precision), str(folder)
    for found_masks, found_weights in pools[world].run(world, moving.reshard, *args):
        if precision == "fp32":  # in bf16 the order of a sum changes the rounding, and so the selection
            assert all(map(torch.equal, masks, found_masks)), f"from {there}"
            for expected, found in zip(weights, found_weights, strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        assert sum(int((~mask).sum()) for mask in found_masks) == round(0.9 * 630)


def test_a_tag_that_is_saved_again_at_another_place_holds_nothing_of_the_first(
    pools: dict[int, RankPool], tmp_path: Path
) -> None:
    recipe = recipe_for("fp32")
    for stage, world in ((2, 3), (3, 2)):
        [(masks, _), *_] = pools[world].run(
            world, moving.train_and_save, ds_config(stage), recipe, str(tmp_path)
        )
    for found, _ in pools[1].run(1, moving.reshard, ds_config(0), recipe, str(tmp_path)):
        assert all(map(torch.equal, masks, found))


def test_frozen_weights_cannot_be_moved(pools: dict[int, RankPool], saved: Saved) -> None:
    folder, _ = saved(2, 3)
    args = ds_config(1), make_recipe(), str(folder)
    with pytest.raises(
        UserError, match=r"embed.weight is frozen, and frozen parameters cannot be resharded: resume"
    ):
        raise UserError(pools[1].run(1, moving.error_of_resharding, *args)[0])
