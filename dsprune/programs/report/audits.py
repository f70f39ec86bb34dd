"""The audit's verdict on a run, for a report."""

import io
from pathlib import Path

from rich.console import Console

from dsprune.errors import CheckFailedError, UserError
from dsprune.programs.audit import audit
from dsprune.programs.report.blocks import Text

__all__ = ["verdict"]


def verdict(path: Path) -> Text:
    """What `dsprune audit` says of a run or a model folder."""
    console = Console(file=io.StringIO(), width=200)
    try:
        audit(path, console)
    except CheckFailedError as error:
        return Text(f"Audit failed. {error}", "bad")
    except UserError as error:
        return Text(f"Not audited: {error}")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    what = [line for line in text.splitlines() if line.endswith("every invariant holds")]
    return Text("; ".join(what), "good")
