"""Functions for the ranks in the tests of patterns."""

from typing import Any

from torch import nn

import dsprune
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Recipe
from dsprune.selection.groups import update_groups
from dsprune.testing.engines import STEPS, pruning_engine
from dsprune.testing.patterned import select_dense_tiles
from dsprune.testing.tiny import TinyModel
from dsprune.testing.whole import whole_masks
from tests.engine.scenarios import dense_scores, pruner_of, train_step


class EvenModel(TinyModel):
    """Prunable: 6 matrices of 16 x 8 and 8 x 16 weights; other sizes are odd, so shards cut the matrices anywhere."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed, width=8)
        for block in self.blocks:
            block.up, block.down = nn.Linear(8, 16), nn.Linear(16, 8)


def check_run(comm: Comm, config: dict[str, Any], recipe: Recipe, folder: str) -> int:
    """Train, compare the masks with those of one process at every mask update, save, and return the zeros."""
    with pruning_engine(config, recipe, model=EvenModel) as engine:
        pruner, timetable = pruner_of(engine), engine.timetable
        tensors = [shard.tensor for shard in pruner.layout.shards]
        for step in range(STEPS):
            expected, update = whole_masks(pruner), timetable.update_at(step)
            if update is not None:
                groups = update_groups(tensors, recipe.pruning, timetable.progress(update))
                squared = recipe.pruning.method == "fisher"
                expected = select_dense_tiles(
                    tensors, dense_scores(pruner), expected, groups, recipe.pruning.pattern, squared=squared
                )
            train_step(engine, step)
            for tensor, mask, wanted in zip(tensors, whole_masks(pruner), expected, strict=True):
                assert mask.equal(wanted), f"step {step}: {tensor.name}"
            assert pruner.audit() == []
        engine.save_checkpoint(folder, tag="saved")
        return pruner.num_pruned


def errors_of_loading(comm: Comm, config: dict[str, Any], recipe: Recipe, folder: str) -> list[str]:
    """The errors of an engine with another pattern for the checkpoint, and for only its model."""
    errors = []
    for options in ({}, {"load_module_only": True}):
        with pruning_engine(config, recipe, model=EvenModel) as engine:
            try:
                engine.load_checkpoint(folder, tag="saved", **options)
            except dsprune.UserError as error:
                errors.append(str(error))
    return errors
