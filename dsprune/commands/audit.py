"""`dsprune audit`: check every checksum and every invariant in the files of a run, a checkpoint, a model or a store."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from dsprune.checkpoint.audit import Audit, audit_all
from dsprune.errors import CheckFailedError
from dsprune.utils.console import cell, say

__all__ = ["audit"]


def audit(path: Path, console: Console) -> None:
    """Print the sparsity of every tensor, and check checksums and invariants.

    Args:
        path: a run (its complete checkpoints and its model), a checkpoint, a model folder, or a teacher store.
        console: where to print.

    Raises:
        UserError: there is nothing to audit at `path`, or a file is damaged.
        CheckFailedError: an invariant does not hold; names the first offending tensor.
    """
    for result in audit_all(path):
        if result.tensors:
            console.print(_table(result))
        if result.findings:
            raise CheckFailedError(result.failure())
        say(console, result.success())


def _table(result: Audit) -> Table:
    regrown = ["regrown"] if result.regrown else []
    title = cell(f"{result.folder}, step {result.step}")
    table = Table("tensor", "weights", "zeros", "sparsity", *regrown, title=title)
    table.columns[0].overflow = "fold"  # a name that is cut names no tensor
    for column in table.columns[1:]:
        column.justify = "right"
    numels, marks = [tensor.numel for tensor in result.tensors], result.regrown or [0] * len(result.tensors)
    names = [*(tensor.name for tensor in result.tensors), "all prunable weights"]
    columns = [[*values, sum(values)] for values in (numels, result.counts, marks)]
    for name, numel, count, num_regrown in zip(names, *columns, strict=True):
        shown = [f"{num_regrown:,}"] if regrown else []
        table.add_row(cell(name), f"{numel:,}", f"{count:,}", f"{count / numel:.4f}", *shown)
    return table
