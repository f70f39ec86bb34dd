"""`dsprune suite`: run a grid of methods, sparsities and seeds, here or as Slurm arrays, and write a report."""

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dsprune.commands.submit import Job, Request, submit_jobs
from dsprune.commands.suite.definition import check_change, load_suite
from dsprune.commands.suite.execute import execute
from dsprune.commands.suite.grid import Grid, Part, check_methods
from dsprune.commands.suite.launcher import Launcher
from dsprune.commands.suite.published import write_about
from dsprune.commands.suite.resolve import check_run, command_of, make_store, needs_suite
from dsprune.errors import CheckFailedError, UserError
from dsprune.utils.console import say, starting

__all__ = ["Choice", "parts_of", "submit_suite", "suite", "suite_part"]


@dataclass(frozen=True)
class Choice:
    """The runs of a suite to execute, and their folder.

    Attributes:
        name: name of a shipped suite, or path of a YAML file.
        recipe: path or name of the recipe to change; None = the suite's own recipes.
        overrides: recipe values for all runs.
        methods: methods to run; empty = all.
        sparsities: targets; empty = the suite's.
        num_seeds: number of seeds (1, 2, ...) of each run.
        output: folder for all runs; None = `runs/NAME`.
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

    def arguments(self) -> list[str]:
        """Return the arguments of `dsprune suite` for this choice."""
        options = [
            *(f"--methods={method}" for method in self.methods),
            *(f"--sparsity={sparsity}" for sparsity in self.sparsities),
            *([f"--output={self.output}"] if self.output else []),
        ]
        recipe = [self.recipe] if self.recipe is not None else []
        return [self.name, *recipe, *self.overrides, *options, f"--seeds={self.num_seeds}"]


def parts_of(choice: Choice) -> tuple[list[Part], list[Part]]:
    """Return the parts of a suite: teachers and their stores, then all parts that depend on them.

    Raises:
        UserError: the suite, recipe or method does not exist, or the suite needs a recipe.
    """
    suite, recipe, overrides = load_suite(choice.name), choice.recipe, choice.overrides
    recipes = suite.recipes
    if recipe is not None and "=" in recipe and not Path(recipe).is_file():
        overrides = (recipe, *overrides)  # of the suite's own recipes
    elif recipe is not None:
        recipes = {Path(recipe).stem: shlex.quote(recipe)}
    if not recipes:
        raise UserError(f"suite {choice.name!r}: needs a recipe: name one after it")
    check_methods(suite, choice.methods)
    for text in overrides:
        try:
            check_change(text)
        except ValueError as error:
            raise UserError(f"override {text!r}: {error}") from None
    first: list[Part] = []
    then: list[Part] = []
    for folder, text in recipes.items():
        output = choice.home if len(recipes) == 1 else choice.home / folder
        name, *own = shlex.split(text)
        grid = Grid(suite, name, (*own, *overrides), output)
        seeds = range(1, choice.num_seeds + 1)
        sparsities = list(dict.fromkeys(choice.sparsities or suite.sparsity))
        parts = grid.parts(choice.methods or list(suite.methods), sparsities, seeds)
        first += parts[0]
        then += parts[1]
    return first, then


def _check(parts: Sequence[Part]) -> None:
    """Check all runs before the first one starts.

    Raises:
        UserError: two runs have the same folder, or a recipe is invalid.
    """
    folders = Counter(part.grid.output / run.name for part in parts for run in part.runs)
    [(folder, count)] = folders.most_common(1)
    if count > 1:
        raise UserError(
            f"{folder}: the folder of {count} runs of the suite: rename a method, or change a sparsity"
        )
    for part in parts:
        for run in part.runs:
            check_run(run, part.grid)


def suite(choice: Choice, num_ranks: int, dry_run: bool, console: Console) -> None:
    """Execute the runs of a suite, and write a report; a second call resumes an interrupted suite.

    Raises:
        UserError: the suite, a recipe or a method is invalid; nothing has been run.
        StoppedError: a run was stopped with a checkpoint.
        CheckFailedError: some runs failed; the others are finished.
    """
    parts = [part for parts in parts_of(choice) for part in parts]
    _check(parts)
    if dry_run:
        for number, part in enumerate(parts):
            for line in _commands(choice, number, part, num_ranks):
                say(console, line)
        return
    errors = execute(parts, num_ranks, console)
    num_runs = sum(len(part.runs) for part in parts)
    if len(errors) < num_runs:
        write_about(load_suite(choice.name), choice.home)
        with starting():
            from dsprune.commands.report import report

        report([choice.home], choice.home, None, True, console)
    if errors:
        raise CheckFailedError(f"{len(errors)} of {num_runs} runs failed: {'; '.join(errors)}")


def _commands(choice: Choice, number: int, part: Part, num_ranks: int) -> Iterator[str]:
    """Yield the commands of a part for a shell, in order.

    Runs that need files that the suite writes between them are comments above the command for this part.
    """
    by_suite = any(needs_suite(run) for run in part.runs)
    for run in part.runs:
        yield ("# " if by_suite else "") + shlex.join([*_launcher(num_ranks), *command_of(run, part.grid)])
    if by_suite:
        ranks = [f"--num-ranks={num_ranks}"] if num_ranks > 1 else []
        yield shlex.join(["dsprune", "suite", *choice.arguments(), f"--part={number}", *ranks])


def _launcher(num_ranks: int) -> list[str]:
    return ["deepspeed", "--num_accelerators", str(num_ranks), "--module"] if num_ranks > 1 else []


def suite_part(choice: Choice, number: int, num_ranks: int, console: Console) -> None:
    """Run one part of a suite, as one job of a Slurm array.

    Raises:
        UserError: the part does not exist, or the teacher's store cannot be computed.
        StoppedError: a run was stopped with a checkpoint.
        CheckFailedError: a run failed.
    """
    parts = [part for parts in parts_of(choice) for part in parts]
    if number >= len(parts):
        raise UserError(f"--part: value {number}: the suite has parts 0 to {len(parts) - 1}")
    part = parts[number]
    errors = execute([part], num_ranks, console)
    if errors:
        raise CheckFailedError(f"part {number} failed: {'; '.join(errors)}")
    if part.student is not None:
        make_store(part.student, part.grid, Launcher(part.grid.output, num_ranks))
    write_about(load_suite(choice.name), choice.home)


def submit_suite(choice: Choice, request: Request, dry_run: bool, console: Console) -> None:
    """Submit an array of jobs for the teachers and their stores, if there are any, and one array for all other parts.

    Raises:
        UserError: the suite is invalid, the cluster does not have the resources, or it refuses a job.
    """
    parts = parts_of(choice)
    _check([*parts[0], *parts[1]])
    first, then = map(len, parts)
    options = request.options(Path(choice.name).stem)
    spans = [(0, first), (first, first + then)]
    jobs = [
        Job("suite", (*options, f"--array={start}-{stop - 1}"), tuple(choice.arguments()))
        for start, stop in spans
        if stop > start
    ]
    submit_jobs(jobs, console, dry_run=dry_run)
    say(console, f"when they are done: dsprune report {shlex.quote(str(choice.home))}")
