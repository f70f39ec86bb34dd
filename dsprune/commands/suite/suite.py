"""`dsprune suite`: run a grid, keep what is finished, and report."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dsprune.commands.report import report
from dsprune.commands.submit.jobs import Job, Request
from dsprune.commands.submit.submit import submit_jobs
from dsprune.commands.suite.definition import Suite, load_suite
from dsprune.commands.suite.grid import Grid, Part, RunSpec, check_methods
from dsprune.commands.suite.launch import Launcher
from dsprune.commands.suite.resolve import ask_teacher, resolve
from dsprune.commands.suite.rewind import save_start, save_ticket
from dsprune.errors import CheckFailedError, UserError
from dsprune.recipe import Recipe, dump_recipe, load_recipe
from dsprune.report.published import SUITE
from dsprune.train.run_folder import RunFolder
from dsprune.utils.console import say
from dsprune.utils.files import replace_text

__all__ = ["Choice", "parts_of", "submit_suite", "suite", "suite_part"]


@dataclass(frozen=True)
class Choice:
    """What of a suite is run, and where.

    Attributes:
        name: of a shipped suite, or a YAML file.
        recipe: path or name of the recipe that it changes; None = the suite's own recipes.
        overrides: recipe values for all runs.
        methods: those to run; none = all.
        sparsities: targets; none = the suite's.
        num_seeds: seeds 1, 2, ... of each run.
        output: folder for all of it; None = `runs/NAME`.
    """

    name: str
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    sparsities: tuple[float, ...] = ()
    num_seeds: int = 1
    output: Path | None = None

    @property
    def home(self) -> Path:
        """Folder of the suite."""
        return self.output or Path("runs", Path(self.name).stem)

    def words(self) -> list[str]:
        """What one types after `dsprune suite` to choose the same."""
        options = [
            *(f"--methods={method}" for method in self.methods),
            *(f"--sparsity={sparsity}" for sparsity in self.sparsities),
            *([f"--output={self.output}"] if self.output else []),
        ]
        recipe = [self.recipe] if self.recipe is not None else []
        return [self.name, *recipe, *self.overrides, *options, f"--seeds={self.num_seeds}"]


def parts_of(choice: Choice) -> tuple[list[Part], list[Part]]:
    """What a suite comes to: parts that others wait for, and those.

    Raises:
        UserError: the suite, the recipe and the methods do not go together.
    """
    suite, recipe, overrides = load_suite(choice.name), choice.recipe, choice.overrides
    recipes = suite.recipes
    if recipe is not None and "=" in recipe:  # a value for the suite's own recipes
        overrides = (recipe, *overrides)
    elif recipe is not None:
        recipes = {Path(recipe).stem: recipe}
    if not recipes:
        raise UserError(f"suite {choice.name!r}: it is for any recipe: name one after it")
    check_methods(suite, choice.methods)
    first: list[Part] = []
    then: list[Part] = []
    for folder, text in recipes.items():
        output = choice.home if len(recipes) == 1 else choice.home / folder
        grid = _grid(suite, text, overrides, output)
        seeds = range(1, choice.num_seeds + 1)
        parts = grid.parts(choice.methods or list(suite.methods), choice.sparsities or suite.sparsity, seeds)
        first += parts[0]
        then += parts[1]
    return first, then


def suite(choice: Choice, num_ranks: int, dry_run: bool, console: Console) -> None:
    """Run a suite, one run after the other; a second call goes on where the first was cut.

    Args:
        choice: what of it.
        num_ranks: processes of each run.
        dry_run: print the runs' commands only.
        console: where to say how far it is.

    Raises:
        UserError: the suite, a recipe or a finished run do not go together; nothing has been run.
        StoppedError: a run was stopped with a checkpoint.
        CheckFailedError: some runs failed; the others were made.
    """
    first, then = parts_of(choice)
    todo = [(part.grid, job) for part in (*first, *then) for job in part.jobs]
    if dry_run:
        for _, job in todo:
            command = ["dsprune", "train", job.recipe, *job.overrides]
            say(console, shlex.join(command))
        return
    failed = _run_all(todo, num_ranks, console)
    _write_about(load_suite(choice.name), choice.home)
    report([choice.home], choice.home, None, True, console)
    if failed:
        raise CheckFailedError(f"{len(failed)} of {len(todo)} runs failed: {'; '.join(failed)}")


def suite_part(choice: Choice, number: int, num_ranks: int, console: Console) -> None:
    """Run one part of a suite, as a job of a Slurm array does beside others.

    Raises:
        UserError: there is no such part, or what it needs is missing.
        StoppedError: a run was stopped with a checkpoint.
        CheckFailedError: a run failed.
    """
    first, then = parts_of(choice)
    parts = [*first, *then]
    if number >= len(parts):
        raise UserError(f"--part: value {number}: the suite has parts 0 to {len(parts) - 1}")
    part = parts[number]
    failed = _run_all([(part.grid, job) for job in part.jobs], num_ranks, console)
    if failed:
        raise CheckFailedError(f"part {number} failed: {'; '.join(failed)}")
    if part.pupil is not None:
        ask_teacher(part.pupil, part.grid, Launcher(part.grid.output, num_ranks))
    _write_about(load_suite(choice.name), choice.home)


def _grid(loaded: Suite, text: str, overrides: Sequence[str], output: Path) -> Grid:
    recipe, *own = shlex.split(text)
    return Grid(loaded, recipe, (*own, *overrides), output)


def _write_about(loaded: Suite, home: Path) -> None:
    about = {"title": loaded.title, "published": list(loaded.published)}
    replace_text(home / SUITE, json.dumps(about, indent=2) + "\n")


def _run_all(todo: Sequence[tuple[Grid, RunSpec]], num_ranks: int, console: Console) -> list[str]:
    """Run what is not finished; what failed is told and left behind."""
    failed = []
    for number, (grid, job) in enumerate(todo, start=1):
        grid.output.mkdir(parents=True, exist_ok=True)
        launcher = Launcher(grid.output, num_ranks)
        try:
            outcome = _run(job, grid, launcher)
        except UserError as error:
            failed.append(str(error))
            outcome = f"failed: {error}"
        say(console, f"{number}/{len(todo)} {job.name}: {outcome}")
    return failed


def _run(job: RunSpec, grid: Grid, launcher: Launcher) -> str:
    """Make one run, unless it is finished.

    Raises:
        UserError: it failed, or what it builds on is missing.
    """
    run = RunFolder(grid.output / job.name)
    recipe = resolve(job, grid, launcher)
    if run.summary.exists():
        _check_same(run, recipe)
        return "kept"
    arguments = _prepare(job, grid, recipe)
    launcher.run("train", job.name, dump_recipe(recipe), *arguments)
    summary = json.loads(run.summary.read_text(encoding="utf-8"))
    metric, value = next(iter(summary["metrics"].items()))
    return f"{metric} {value:.4f}"


def _check_same(run: RunFolder, recipe: Recipe) -> None:
    if load_recipe(str(run.recipe)) != recipe:
        raise UserError(
            f"{run.path}: was made with another recipe than is asked for now: give another --output, or remove it"
        )


def _prepare(job: RunSpec, grid: Grid, recipe: Recipe) -> list[str]:
    """Make the models that a chain of iterative pruning starts from; returns arguments for `dsprune train`."""
    assert recipe.model is not None
    folder = Path(recipe.model.path)
    if job.start is None:
        return []
    if job.rewound is None:
        if not folder.exists() and grid.base.model is not None:
            save_start(recipe, grid.base.model.path, folder)
        return []
    if not job.rewound.exists():
        raise UserError(f"{job.name}: the round before it, {job.rewound.parent.name}, has left no model")
    if not folder.exists():
        save_ticket(recipe, job.rewound, job.start, folder)
    return ["--masks-from", "zeros"]


def submit_suite(choice: Choice, request: Request, dry_run: bool, console: Console) -> None:
    """Submit an array for teachers and their stores where there are any, and one for all that needs them.

    Args:
        choice: what of the suite.
        request: what each job asks for.
        dry_run: check and print, submit nothing.
        console: where the numbers go.

    Raises:
        UserError: the suite is wrong, the cluster cannot give what is asked for, or it refuses a job.
    """
    first, then = map(len, parts_of(choice))
    options = request.options(Path(choice.name).stem)
    spans = [(0, first), (first, first + then)]
    jobs = [
        Job("suite", (*options, f"--array={start}-{stop - 1}"), tuple(choice.words()))
        for start, stop in spans
        if stop > start
    ]
    submit_jobs(jobs, console, dry_run=dry_run)
    console.print(f"when they are done: dsprune report {choice.home}", markup=False, highlight=False)
