"""`dsprune data`: where a task's data come from, and whether a local copy is what it should be."""

from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from dsprune.errors import CheckFailedError, UserError
from dsprune.recipe import Task as TaskSettings
from dsprune.registry import TASKS
from dsprune.tasks.benchmark import Benchmark, Split
from dsprune.tasks.task import build_task
from dsprune.utils.console import say

__all__ = ["check_copy", "describe", "list_tasks"]

EVERY_PAIR = "en-de"
"""Stands for all pairs where the tasks are listed."""


def list_tasks(console: Console) -> None:
    """Print all tasks that are published, and the kinds that take anyone's data."""
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
    say(console, f"kinds of tasks, for anyone's data: {', '.join(kinds)}")


def describe(settings: TaskSettings, console: Console) -> None:
    """Print where the data of a task come from.

    Raises:
        UserError: there is no such task, or it is a kind, for anyone's data.
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
    say(
        console,
        f"Nothing is downloaded by this command. Check a copy: dsprune data {settings.name} --path FOLDER",
    )


def check_copy(settings: TaskSettings, folder: Path, console: Console) -> None:
    """Read all of a local copy, as training would.

    Raises:
        CheckFailedError: a file, a column or a label is not what it should be, or the number of examples.
    """
    task = build_task(settings.model_copy(update={"folder": str(folder), "dataset": None}))
    for split in get_args(Split):
        try:
            examples, remarks = len(task.load(split)), task.remarks(split)
        except UserError as error:
            raise CheckFailedError(str(error)) from error
        known = all(benchmark.parts[split].examples is not None for benchmark in task.benchmarks)
        verdict = "as published" if known else "read without a fault; how many there should be is not known"
        say(console, f"{split}: {examples:,} examples, {verdict}")
        for remark in remarks:
            say(console, f"{split}: {remark}")


def _benchmarks(settings: TaskSettings) -> tuple[Benchmark, ...]:
    benchmarks = build_task(settings).benchmarks
    if not benchmarks:
        raise UserError(
            f"task {settings.name!r}: is a kind of task, for anyone's data, with no publication of its own: "
            "`dsprune data` lists those that have one"
        )
    return benchmarks


def _size(benchmark: Benchmark, split: Split) -> str:
    examples = benchmark.parts[split].examples
    return "?" if examples is None else f"{examples:,}"


def _hub(benchmark: Benchmark) -> str:
    hub = benchmark.hub
    return f"{hub.name}{f' ({hub.config})' if hub.config else ''}" if hub else "not there as plain data"
