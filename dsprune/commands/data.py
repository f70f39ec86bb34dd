"""`dsprune data`: show the source of a task's data, and check a local copy."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from rich.console import Console

from dsprune.errors import CheckFailedError, UserError
from dsprune.recipe import Task as TaskSettings
from dsprune.recipe.comments import first_sentence
from dsprune.registry import TASKS
from dsprune.report.table import Table, show
from dsprune.tasks.build import build_task
from dsprune.tasks.source import Benchmark, Split
from dsprune.tasks.task import Task
from dsprune.utils.console import say
from dsprune.utils.text import MISSING, summary_of

__all__ = ["benchmarks_by_name", "check_copy", "describe", "kind_fields", "kinds_of_tasks", "list_tasks"]

EVERY_PAIR = "en-de"
"""Language pair to show if none is given."""


def kinds_of_tasks() -> dict[str, Task]:
    """Return the kinds of tasks that accept any data."""
    return {name: task for name, task in _tasks().items() if not task.benchmarks}


def benchmarks_by_name() -> dict[str, tuple[Benchmark, ...]]:
    """Return the published data sets of each task that has any."""
    return {name: task.benchmarks for name, task in _tasks().items() if task.benchmarks}


def _tasks() -> dict[str, Task]:
    return {name: build_task(TaskSettings(name=name, pairs=(EVERY_PAIR,))) for name in TASKS}


def list_tasks(console: Console) -> None:
    """Print the kinds of tasks that accept any data, and the published data sets."""
    rows = tuple((name, summary_of(task)) for name, task in kinds_of_tasks().items())
    show(Table("kinds", "Kinds of tasks, for your own data", ("kind", "what"), rows, words=True), console)
    sets = tuple(
        (name, one.title, *(_size(one, split) for split in get_args(Split)))
        for name, several in benchmarks_by_name().items()
        for one in several
    )
    show(Table("tasks", "Published data sets", ("task", "data", *get_args(Split)), sets, words=True), console)
    say(console, "to print the fields of a kind, or the source and licence of a data set: dsprune data NAME")


def describe(settings: TaskSettings, console: Console) -> None:
    """Print source, licence and number of examples of a task's data.

    For a kind of task without published data, print the fields that it needs.

    Raises:
        UserError: the task does not exist.
    """
    named = settings if settings.pairs else settings.model_copy(update={"pairs": (EVERY_PAIR,)})
    task = build_task(named)
    if not task.benchmarks:
        return _describe_kind(settings.name, task, console)
    for benchmark in task.benchmarks:
        lines = {
            "data": benchmark.title,
            "source": benchmark.source,
            "licence": benchmark.licence,
            "hub": _hub(benchmark),
            "folder": "; ".join(
                f"{split}: {benchmark.parts[split].path}, {_size(benchmark, split)} examples"
                for split in get_args(Split)
            ),
            "note": benchmark.note,
        }
        for name, text in lines.items():
            if text:
                say(console, f"{name:8} {text}")
        say(console, "")
    say(console, f"This command downloads nothing. Check a copy: dsprune data {settings.name} --path FOLDER")


def check_copy(settings: TaskSettings, folder: Path, console: Console) -> None:
    """Read all of a local copy, as training would.

    Raises:
        CheckFailedError: a file, a column, a label or the number of examples is invalid.
    """
    task = build_task(settings.model_copy(update={"folder": str(folder), "dataset": None}))
    for split in get_args(Split):
        try:
            examples, remarks = len(task.load(split)), task.remarks(split)
        except UserError as error:
            raise CheckFailedError(str(error)) from error
        known = all(benchmark.parts[split].examples is not None for benchmark in task.benchmarks)
        verdict = "as published" if known else "read without errors; the published number is unknown"
        say(console, f"{split}: {examples:,} examples, {verdict}")
        for remark in remarks:
            say(console, f"{split}: {remark}")


def _describe_kind(name: str, task: Task, console: Console) -> None:
    """Print the fields of a kind of task, with their defaults, from the recipe's schema."""
    say(console, f"{name}: {summary_of(task)}")
    rows = tuple((f"task.{field}", *cells) for field, *cells in kind_fields(task))
    show(Table("fields", "Fields", ("field", "default", "meaning"), rows, words=True), console)
    fixed = tuple((one.name, one.holds) for one in task.columns() if one.field is None)
    if fixed:
        show(Table("columns", "Columns of the data", ("column", "holds"), fixed, words=True), console)
    say(console, f"a recipe for your data: dsprune new NAME --task {name} --data FILE --model MODEL")


def kind_fields(task: Task) -> Iterator[tuple[str, str, str]]:
    """Yield each field of the task section that a kind of task reads, its default, and its meaning."""
    for field in ("train", "validation"):
        yield field, "needed", first_sentence(TaskSettings, field)
    for column in task.columns():
        if column.field is not None:
            yield column.field, column.name or MISSING, f"column: {column.holds}"
    for field in task.uses:
        default = TaskSettings.model_fields[field].default
        yield field, "needed" if default == () else str(default), first_sentence(TaskSettings, field)


def _size(benchmark: Benchmark, split: Split) -> str:
    """Return the number of examples of a split, or `?` if it is unknown."""
    examples = benchmark.parts[split].examples
    return "?" if examples is None else f"{examples:,}"


def _hub(benchmark: Benchmark) -> str:
    hub = benchmark.hub
    return f"{hub.name}{f' ({hub.config})' if hub.config else ''}" if hub else "not available as plain data"
