"""Terminal output: plain lines, progress bars, and less output from other libraries."""

import logging
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from dsprune.utils.text import printable

__all__ = [
    "EVERY",
    "cell",
    "empty_table",
    "print_table",
    "progress_bar",
    "quiet_deepspeed",
    "quiet_libraries",
    "say",
    "starting",
    "waiting",
]

PATIENCE = 2.0
"""Seconds of waiting before a log file gets a line."""

LONGEST_WORD, MAX_WIDTH = 40, 10_000
"""Longest word, such as a path, that a narrow terminal does not break; width of the widest table."""

EVERY = 30.0
"""Seconds between two progress lines of a log file."""


def say(console: Console, text: str) -> None:
    """Print a line unchanged, without rich's markup, emojis, colours or line breaks.

    Control characters, which names of files and their contents may have, are escaped.
    """
    console.print(printable(text), markup=False, emoji=False, highlight=False, soft_wrap=True)


def cell(text: str, style: str = "") -> Text:
    """Return a cell of a table with an unchanged text, except for escaped control characters."""
    return Text(printable(text), style)


def empty_table(title: Text) -> Table:
    """Return a table in the style of all tables, without columns and rows."""
    return Table(title=title, title_style="table.title", title_justify="left", box=box.SIMPLE_HEAD)


def print_table(console: Console, table: Table) -> None:
    """Print a table: in a file at full width; on a terminal within its width, unless a word would be broken."""
    table.width = Measurement.get(console, console.options.update(width=MAX_WIDTH), table).maximum
    sizes = [_sizes(column) for column in table.columns]
    # The columns that can shrink most wrap first.
    for column, (widest, least) in sorted(
        zip(table.columns, sizes, strict=True), key=lambda each: each[1][1] - each[1][0]
    ):
        excess = table.width - console.width if console.is_terminal else 0
        column.width = widest - max(0, min(excess, widest - least))
        table.width -= widest - column.width
    console.print(table, crop=False)


def _sizes(column: Column) -> tuple[int, int]:
    """Return the width of a column without wrapping, and the smallest width that breaks no word."""
    texts = [str(text) for text in (column.header, *column.cells)]
    widest = max(map(cell_len, texts))
    longest = max((cell_len(word) for text in texts for word in text.split()), default=0)
    return widest, widest if column.no_wrap else max(column.min_width or 0, min(LONGEST_WORD, longest))


def progress_bar(console: Console) -> Progress:
    """Return a progress bar; without a terminal it prints a line every 30 seconds.

    The field `note` of a task, if it has one, is shown next to the bar.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Note("{task.description}"),
        TimeRemainingColumn(),
    )
    kind = Progress if console.is_terminal else _LinesOfProgress
    return kind(*columns, console=console, disable=console.quiet or not console.is_terminal)


class _LinesOfProgress(Progress):
    """Prints a line when a task advances, at most every `EVERY` seconds."""

    _told = 0.0

    def add_task(self, description: str, *args: Any, **options: Any) -> TaskID:
        self._told = time.monotonic()
        return super().add_task(description, *args, **options)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        if (now := time.monotonic()) - self._told < EVERY:
            return
        self._told, task = now, self.tasks[self.task_ids.index(task_id)]
        left = "" if task.time_remaining is None else f", {timedelta(seconds=task.time_remaining)} left"
        say(self.console, f"{task.description}: {task.completed:,.0f} of {task.total or 0:,.0f}{left}")


class _Note(TextColumn):
    """The field `note` of a task; empty if it has none."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("note", "")))


@contextmanager
def waiting(console: Console, what: str) -> Iterator[None]:
    """Show what the block does, such as `loading the model`: a spinner on a terminal, or a line if it takes long."""
    if console.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True, disable=console.quiet) as spinner:
            spinner.add_task(printable(what), total=None)
            yield
        return
    timer = threading.Timer(PATIENCE, lambda: say(console, f"{what} ..."))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def quiet_libraries(*, is_first: bool) -> None:
    """Limit other libraries to messages that a user can act on. Call this before DeepSpeed is imported.

    Their progress bars would mix with dsprune's; their warnings are shown only on the first rank.
    """
    import datasets
    from transformers.utils import logging as transformers_logging

    # DeepSpeed calls functions of torch under deprecated names.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    # This warning concerns models that were trained with an old release of transformers.
    warnings.filterwarnings("ignore", category=FutureWarning, message="Version v4.12.0 introduces")
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # otherwise it prints a table of the weights of a new head
    quiet_deepspeed(is_first=is_first)


def quiet_deepspeed(*, is_first: bool) -> None:
    """Limit DeepSpeed's log to messages that a user can act on, on the first rank, and to errors on others."""
    # Filters, because DeepSpeed sets the level of its logger, which writes to the standard output.
    logger = logging.getLogger("DeepSpeed")
    logger.addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
    if not is_first:
        logger.addFilter(lambda record: record.levelno >= logging.ERROR)


@contextmanager
def starting(*, is_first: bool = True) -> Iterator[None]:
    """Keep other libraries quiet while the block loads them, and print a line if it takes long."""
    with waiting(Console(stderr=True, quiet=not is_first), "loading torch, transformers and DeepSpeed"):
        quiet_libraries(is_first=is_first)
        yield
