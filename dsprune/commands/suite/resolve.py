"""Fill the placeholders of a run just before it starts: its teacher, the store, the temperature, component names."""

import re
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from dsprune.commands.calibrate.measure import Labels, enough_records, measure
from dsprune.commands.suite.grid import Grid, RunSpec
from dsprune.commands.suite.launcher import Launcher
from dsprune.distillation.calibration import recommend
from dsprune.distillation.store import open_store
from dsprune.distillation.store.format import MANIFEST
from dsprune.errors import UserError
from dsprune.model.components import converted, find_components
from dsprune.model.patterns import patterns_of
from dsprune.model.prunable import find_prunable
from dsprune.recipe import Recipe, dump_recipe, load_recipe
from dsprune.report.settings import TARGET

__all__ = ["make_store", "resolve"]

CALIBRATED = "{calibrated}"


def resolve(run: RunSpec, grid: Grid, launcher: Launcher) -> Recipe:
    """Return the recipe of a run, with its placeholders filled in.

    Raises:
        UserError: the resulting recipe is invalid, or the teacher's store cannot be computed.
    """
    values = _teacher_values(run, grid)
    overrides = [_fill(text, values) for text in run.overrides]
    if any(CALIBRATED in text for text in overrides):
        store = make_store(run, grid, launcher)
        overrides = [_fill(text, {"calibrated": f"{_calibrated(store):g}"}) for text in overrides]
    recipe = load_recipe(run.recipe, overrides)
    if recipe.pruning is None:
        return recipe
    if run.components:
        added = [*recipe.pruning.include, *_patterns(grid.model, run.components)]
        overrides.append(f"pruning.include={added}")
    if grid.suite.convention == "matrices":
        target = recipe.pruning.sparsity
        recipe = load_recipe(run.recipe, overrides)
        overrides += [
            f"pruning.sparsity={_of_prunable(recipe, grid.model, target)}",
            f"tracking.tags={[*recipe.tracking.tags, f'{TARGET}{target:g}']}",
        ]
    return load_recipe(run.recipe, overrides)


def make_store(student: RunSpec, grid: Grid, launcher: Launcher) -> Path:
    """Return the teacher logits store of a run; compute it if it is missing.

    Raises:
        UserError: the store cannot be computed.
    """
    values = _teacher_values(student, grid)
    store = Path(values["store"])
    if not (store / MANIFEST).exists():
        known = [_fill(text, values) for text in student.overrides if CALIBRATED not in text]
        recipe = load_recipe(student.recipe, known)
        launcher.run("teacher", f"{recipe.name}-teacher", dump_recipe(recipe))
    return store


def _teacher_values(run: RunSpec, grid: Grid) -> dict[str, str]:
    """Return the paths of a run's teacher and store: those of the recipe, else those of the suite."""
    known = grid.base.distillation
    teacher = known.teacher if known else str(grid.output / f"teacher-seed{run.seed}" / "model")
    store = known.store if known else None
    return {"teacher": teacher, "store": store or str(grid.output / f"store-seed{run.seed}")}


def _fill(text: str, values: dict[str, str]) -> str:
    """Replace the placeholders that have a value."""
    return re.sub(r"\{(\w+)\}", lambda placeholder: values.get(placeholder[1], placeholder[0]), text)


def _patterns(model: nn.Module, components: tuple[str, ...]) -> Iterator[str]:
    """Yield globs for those of the components that the model has."""
    for component in find_components(model):
        if component.name in components:
            yield from patterns_of([tensor.name for tensor in component.tensors])


def _of_prunable(recipe: Recipe, model: nn.Module, target: float) -> float:
    """Return the sparsity of the prunable weights at which `target` of all matrices of the model are zero.

    Raises:
        UserError: the matrices that stay dense are more than the target leaves.
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
    """Return the temperature that calibrating the store recommends."""
    opened = open_store(store)
    samples = opened.fingerprints[: enough_records(opened)]
    return recommend(list(measure(opened, samples, Labels()).values()))
