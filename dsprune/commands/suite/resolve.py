"""Fill the placeholders of a run just before it starts: its teacher, the store, the temperature, component names."""

import re
from pathlib import Path

from dsprune.commands.suite.grid import Grid, RunSpec
from dsprune.commands.suite.launcher import Launcher
from dsprune.errors import UserError
from dsprune.recipe import Recipe, dump_recipe, load_recipe
from dsprune.recipe.sections import STORE_MANIFEST
from dsprune.report.grouping import TARGET
from dsprune.utils.console import starting

__all__ = ["check_run", "command_of", "make_store", "needs_suite", "resolve"]

CALIBRATED = "{calibrated}"
_PLAIN = re.compile(r"[\w./~](?:[\w ./~+@=%-]*[\w./~+@=%-])?")


def resolve(run: RunSpec, grid: Grid, launcher: Launcher) -> Recipe:
    """Return the recipe of a run, with its placeholders filled in.

    Raises:
        UserError: the resulting recipe is invalid, or the teacher's store cannot be computed.
    """
    overrides = known_overrides(run, grid)
    if any(CALIBRATED in text for text in overrides):
        with starting():
            from dsprune.commands.calibrate.store_curves import recommended_temperature

        temperature = recommended_temperature(make_store(run, grid, launcher))
        overrides = [_fill(text, {"calibrated": f"{temperature:g}"}) for text in overrides]
    return load_recipe(run.recipe, _converted(run, grid, overrides))


def command_of(run: RunSpec, grid: Grid) -> list[str]:
    """Return the command of a run; it keeps `{calibrated}` if the store does not exist yet.

    Raises:
        UserError: the resulting recipe is invalid.
    """
    overrides = known_overrides(run, grid)
    known = [text for text in overrides if CALIBRATED not in text]
    converted = _converted(run, grid, known)
    load_recipe(run.recipe, converted)
    zeros = ["--masks-from", "zeros"] if run.rewound is not None else []
    return ["dsprune", "train", run.recipe, *overrides, *converted[len(known) :], *zeros]


def check_run(run: RunSpec, grid: Grid) -> None:
    """Check the recipe of a run, without its model and data.

    Raises:
        UserError: it is invalid, has another target than the run, or the method names a component that no model has.
    """
    known = [text for text in known_overrides(run, grid) if CALIBRATED not in text]
    try:
        pruning = load_recipe(run.recipe, known).pruning
        if run.components:
            with starting():
                from dsprune.commands.suite.weights import check_components

            check_components(run.components)
    except UserError as error:
        raise UserError(f"{run.name}: {error}") from None
    sparsity = None if pruning is None else pruning.sparsity
    if sparsity != run.sparsity:
        raise UserError(
            f"{run.name}: pruning.sparsity: value {sparsity}: the target of the run is {run.sparsity}: write "
            f"{{sparsity}} in the method's changes, and exactly pruning=null in those of a dense method"
        )


def needs_suite(run: RunSpec) -> bool:
    """Return whether a run needs results that the suite computes or writes just before it."""
    return run.start is not None or any(CALIBRATED in text for text in run.overrides)


def known_overrides(run: RunSpec, grid: Grid) -> list[str]:
    """Return the changes of a run to its recipe, without those that the suite measures."""
    values = _teacher_values(run, grid)
    return [_fill(text, values) for text in run.overrides]


def _converted(run: RunSpec, grid: Grid, overrides: list[str]) -> list[str]:
    """Return the overrides with the run's components, and its target in the recipe's convention."""
    recipe = load_recipe(run.recipe, overrides)
    if recipe.pruning is None:
        return overrides
    if not run.components and grid.suite.convention != "matrices":
        return overrides
    with starting():
        from dsprune.commands.suite.weights import component_patterns, of_prunable

    if run.components:
        added = [*recipe.pruning.include, *component_patterns(grid.model, run.components)]
        overrides = [*overrides, f"pruning.include={added}"]
    if grid.suite.convention == "matrices":
        target = recipe.pruning.sparsity
        recipe = load_recipe(run.recipe, overrides)
        overrides = [
            *overrides,
            f"pruning.sparsity={of_prunable(recipe, grid.model, target)}",
            f"tracking.tags={[*recipe.tracking.tags, f'{TARGET}{target:g}']}",
        ]
    return overrides


def make_store(student: RunSpec, grid: Grid, launcher: Launcher) -> Path:
    """Return the teacher logits store of a run; compute it if it is missing.

    Raises:
        UserError: the store cannot be computed.
    """
    values = _teacher_values(student, grid)
    store = Path(values["store"])
    if not (store / STORE_MANIFEST).exists():
        known = [_fill(text, values) for text in student.overrides if CALIBRATED not in text]
        recipe = load_recipe(student.recipe, known)
        launcher.run("teacher", f"{recipe.name}-teacher", dump_recipe(recipe))
    return store


def _teacher_values(run: RunSpec, grid: Grid) -> dict[str, str]:
    """Return the paths of a run's teacher and store: those of the recipe, otherwise those of the suite."""
    known = grid.base.distillation
    teacher = known.teacher if known else str(grid.output / f"teacher-seed{run.seed}" / "model")
    store = known.store if known else None
    values = {"teacher": teacher, "store": store or str(grid.output / f"store-seed{run.seed}")}
    for path in values.values():
        _check_plain(path)
    return values


def _check_plain(path: str) -> None:
    """Check that a path can replace a placeholder in YAML, with or without quotes."""
    if _PLAIN.fullmatch(path) is None:
        raise UserError(f"suite: the path {path!r} has a character with a meaning in YAML: rename it")


def _fill(text: str, values: dict[str, str]) -> str:
    """Replace the placeholders that have a value."""
    return re.sub(r"\{(\w+)\}", lambda placeholder: values.get(placeholder[1], placeholder[0]), text)
