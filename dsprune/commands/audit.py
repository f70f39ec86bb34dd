"""`dsprune audit`: check every invariant in the files of a run, a checkpoint or a model folder."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from dsprune.checkpoint.audit import Audit, audit_folder, folders_to_audit
from dsprune.errors import CheckFailedError
from dsprune.utils.console import say

__all__ = ["audit"]


def audit(path: Path, console: Console) -> None:
    """Print the sparsity of every tensor and check the invariants.

    Args:
        path: a run (its newest checkpoint and its model), a checkpoint, or a model folder.
        console: where to print.

    Raises:
        UserError: there is nothing to audit at `path`, or a file is damaged.
        CheckFailedError: an invariant does not hold; names the first offending tensor.
    """
    for folder in folders_to_audit(path):
        result = audit_folder(folder)
        console.print(_table(result))
        if result.findings:
            raise CheckFailedError(result.failure())
        say(console, f"{folder}: every invariant holds")


def _table(result: Audit) -> Table:
    table = Table("tensor", "weights", "zeros", "sparsity", title=f"{result.folder}, step {result.step}")
    for column in table.columns[1:]:
        column.justify = "right"
    rows = [(t.name, t.numel, count) for t, count in zip(result.tensors, result.counts, strict=True)]
    rows.append(("all prunable weights", sum(row[1] for row in rows), sum(result.counts)))
    for name, numel, count in rows:
        table.add_row(name, f"{numel:,}", f"{count:,}", f"{count / numel:.4f}")
    return table
