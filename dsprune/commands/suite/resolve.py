"""What is known of a run only just before it: its teacher, the store, the temperature, names of weights."""

import re
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from dsprune.commands.analyze.measure import patterns_of
from dsprune.commands.suite.grid import Grid, RunSpec
from dsprune.commands.suite.launch import Launcher
from dsprune.distillation.calibration import recommend
from dsprune.distillation.store import open_store
from dsprune.distillation.store.format import MANIFEST
from dsprune.errors import UserError
from dsprune.model.components import converted, find_components
from dsprune.model.prunable import find_prunable
from dsprune.recipe import Recipe, dump_recipe, load_recipe
from dsprune.report.settings import TARGET

__all__ = ["ask_teacher", "resolve"]

CALIBRATED = "{calibrated}"


def resolve(job: RunSpec, grid: Grid, launcher: Launcher) -> Recipe:
    """The recipe of a run, its places filled in.

    Raises:
        UserError: the recipe that comes out is wrong, or its teacher cannot be asked.
    """
    values = _lesson(job, grid)
    overrides = [_filled(text, values) for text in job.overrides]
    if any(CALIBRATED in text for text in overrides):
        store = ask_teacher(job, grid, launcher)
        overrides = [_filled(text, {"calibrated": f"{_calibrated(store):g}"}) for text in overrides]
    recipe = load_recipe(job.recipe, overrides)
    if recipe.pruning is None:
        return recipe
    if job.components:
        added = [*recipe.pruning.include, *_patterns(grid.model, job.components)]
        overrides.append(f"pruning.include={added}")
    if grid.suite.convention == "matrices":
        target = recipe.pruning.sparsity
        recipe = load_recipe(job.recipe, overrides)
        overrides += [
            f"pruning.sparsity={_of_prunable(recipe, grid.model, target)}",
            f"tracking.tags={[*recipe.tracking.tags, f'{TARGET}{target:g}']}",
        ]
    return load_recipe(job.recipe, overrides)


def ask_teacher(pupil: RunSpec, grid: Grid, launcher: Launcher) -> Path:
    """The store of what a run's teacher says, which is made where it is not there.

    Raises:
        UserError: the teacher cannot be asked.
    """
    values = _lesson(pupil, grid)
    store = Path(values["store"])
    if not (store / MANIFEST).exists():
        known = [_filled(text, values) for text in pupil.overrides if CALIBRATED not in text]
        recipe = load_recipe(pupil.recipe, known)
        launcher.run("teacher", f"{recipe.name}-teacher", dump_recipe(recipe))
    return store


def _lesson(job: RunSpec, grid: Grid) -> dict[str, str]:
    """Where the teacher of a run is, and its store: those that the recipe names, or the suite's own."""
    known = grid.base.distillation
    teacher = known.teacher if known else str(grid.output / f"teacher-seed{job.seed}" / "model")
    store = known.store if known else None
    return {"teacher": teacher, "store": store or str(grid.output / f"store-seed{job.seed}")}


def _filled(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda place: values.get(place[1], place[0]), text)


def _patterns(model: nn.Module, components: tuple[str, ...]) -> Iterator[str]:
    """Globs for those of the components that the model has."""
    for component in find_components(model):
        if component.name in components:
            yield from patterns_of([tensor.name for tensor in component.tensors])


def _of_prunable(recipe: Recipe, model: nn.Module, target: float) -> float:
    """The sparsity of what the recipe prunes at which `target` of all matrices of the model are zero.

    Raises:
        UserError: the others alone are more than may be left.
    """
    assert recipe.pruning is not None
    matrices = sum(weight.numel() for weight in model.parameters() if weight.dim() > 1)
    prunable = sum(t.numel for t in find_prunable(model, recipe.pruning.include, recipe.pruning.exclude))
    sparsity = converted(target, matrices, prunable)
    if sparsity >= 1:
        raise UserError(
            f"{recipe.name}: {target:g} of all matrices cannot be zero when only {prunable / matrices:.1%} of them "
            f"are pruned: leave this --sparsity out for this method"
        )
    return round(sparsity, 6)


def _calibrated(store: Path) -> float:
    """The temperature that the teacher's answers recommend."""
    from dsprune.commands.calibrate.measure import Labels, enough_records, measure

    opened = open_store(store)
    records = opened.fingerprints[: enough_records(opened)]
    return recommend(list(measure(opened, records, Labels()).values()))
