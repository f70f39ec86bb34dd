"""Terminal output: plain lines, progress bars, and less output from other libraries."""

import logging
import sys
import warnings

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from dsprune.utils.text import printable

__all__ = ["cell", "progress_bar", "quiet_libraries", "say"]


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
    """Return a progress bar, which is drawn only if `shown` and only on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not (shown and console.is_terminal))


def quiet_libraries(*, is_first: bool) -> None:
    """Limit other libraries to messages that a user can act on. Call this before DeepSpeed is imported.

    Their progress bars are shown on a terminal only, and their warnings on the first rank only.
    """
    import datasets
    from transformers.utils import logging as transformers_logging

    # DeepSpeed calls functions of torch under deprecated names.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    # This warning concerns models that were trained with an old release of transformers.
    warnings.filterwarnings("ignore", category=FutureWarning, message="Version v4.12.0 introduces")
    if not (is_first and sys.stderr.isatty()):
        datasets.disable_progress_bars()
        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()  # its table of newly initialized weights needs a terminal
    # Filters, because DeepSpeed sets the level of its own logger, which writes to the standard output.
    deepspeed = logging.getLogger("DeepSpeed")
    deepspeed.addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
    if not is_first:
        deepspeed.addFilter(lambda record: record.levelno >= logging.ERROR)
