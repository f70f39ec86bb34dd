"""`dsprune data`: show where a task's data come from, and check a local copy."""

from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from dsprune.errors import CheckFailedError, UserError
from dsprune.recipe import Task as TaskSettings
from dsprune.registry import TASKS
from dsprune.tasks.source import Benchmark, Split
from dsprune.tasks.task import build_task
from dsprune.utils.console import say

__all__ = ["check_copy", "describe", "list_tasks"]

EVERY_PAIR = "en-de"
"""Language pair that stands for all pairs when the tasks are listed."""


def list_tasks(console: Console) -> None:
    """Print the published tasks, and the kinds of tasks that take any data."""
    table = Table("task", "data", "training", "validation", "licence", box=None, pad_edge=False)
    kinds = []
    for name in TASKS:
        benchmarks = build_task(TaskSettings(name=name, pairs=(EVERY_PAIR,))).benchmarks
        for benchmark in benchmarks:
            sizes = [_size(benchmark, split) for split in get_args(Split)]
            table.add_row(name, benchmark.title, *sizes, benchmark.licence)
        if not benchmarks:
            kinds.append(name)
    console.print(table)
    say(console, f"kinds of tasks, for your own data: {', '.join(kinds)}")


def describe(settings: TaskSettings, console: Console) -> None:
    """Print where the data of a task come from, under which licence, and how many examples there are.

    Raises:
        UserError: there is no such task, or it is a kind of task, without published data.
    """
    for benchmark in _benchmarks(settings):
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

    Args:
        settings: the task.
        folder: the local copy.
        console: where to print.

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


def _benchmarks(settings: TaskSettings) -> tuple[Benchmark, ...]:
    benchmarks = build_task(settings).benchmarks
    if not benchmarks:
        raise UserError(
            f"task {settings.name!r}: is a kind of task, for your own data, without a published data set: "
            "`dsprune data` lists the tasks that have one"
        )
    return benchmarks


def _size(benchmark: Benchmark, split: Split) -> str:
    examples = benchmark.parts[split].examples
    return "?" if examples is None else f"{examples:,}"


def _hub(benchmark: Benchmark) -> str:
    hub = benchmark.hub
    return f"{hub.name}{f' ({hub.config})' if hub.config else ''}" if hub else "not available as plain data"
