"""Terminal output: plain lines, progress bars, and less output from other libraries."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from dsprune.utils.text import printable

__all__ = ["cell", "progress_bar", "quiet_libraries", "say", "starting", "waiting"]

PATIENCE = 2.0
"""Seconds that pass before a log file is told what is being waited for."""


def say(console: Console, text: str, *, shown: bool = True) -> None:
    """Print a line as it is, without rich's markup, colours or line breaks; nothing unless `shown`.

    Control characters are escaped, since names of files and of their contents may have some.
    """
    if shown:
        console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def cell(text: str, style: str = "") -> Text:
    """Return a cell of a table with a text as it is, its control characters escaped."""
    return Text(printable(text), style)


def progress_bar(console: Console, *, shown: bool) -> Progress:
    """Return a progress bar, which is drawn only if `shown` and only on a terminal.

    The field `note` of its tasks, where they have one, is shown beside the bar.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Note("{task.description}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not (shown and console.is_terminal))


class _Note(TextColumn):
    """The field `note` of a task; empty where it has none."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("note", "")))


@contextmanager
def waiting(console: Console, what: str, *, shown: bool = True) -> Iterator[None]:
    """Say what the block is waited for: with a spinner on a terminal, elsewhere in a line once it has taken long.

    Args:
        console: where to say it.
        what: in words, such as `loading the model`.
        shown: whether to say anything.
    """
    if console.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True, disable=not shown) as spinner:
            spinner.add_task(printable(what), total=None)
            yield
        return
    timer = threading.Timer(PATIENCE, lambda: say(console, f"{what} ...", shown=shown))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def quiet_libraries(*, is_first: bool) -> None:
    """Limit other libraries to messages that a user can act on. Call this before DeepSpeed is imported.

    Their progress bars would run into dsprune's own; their warnings are shown on the first rank only.
    """
    import datasets
    from transformers.utils import logging as transformers_logging

    # DeepSpeed calls functions of torch under deprecated names.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    # This warning concerns models that were trained with an old release of transformers.
    warnings.filterwarnings("ignore", category=FutureWarning, message="Version v4.12.0 introduces")
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # or it prints a table of the weights of a new head
    # Filters, because DeepSpeed sets the level of its own logger, which writes to the standard output.
    deepspeed = logging.getLogger("DeepSpeed")
    deepspeed.addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
    if not is_first:
        deepspeed.addFilter(lambda record: record.levelno >= logging.ERROR)


@contextmanager
def starting(*, is_first: bool = True) -> Iterator[None]:
    """Keep other libraries quiet, and say that they are loaded in the block where it takes long."""
    with waiting(Console(stderr=True), "loading torch, transformers and DeepSpeed", shown=is_first):
        quiet_libraries(is_first=is_first)
        yield
