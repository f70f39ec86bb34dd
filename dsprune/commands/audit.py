"""`dsprune audit`: check every checksum and every invariant in the files of a run, a checkpoint, a model or a store."""

from pathlib import Path

from rich.console import Console

from dsprune.checkpoint.audit import Audit, audit_all
from dsprune.errors import CheckFailedError
from dsprune.report.table import Table, show
from dsprune.utils.console import say
from dsprune.utils.text import percent

__all__ = ["audit"]


def audit(path: Path, console: Console) -> None:
    """Print the sparsity of every tensor, and check checksums and invariants.

    The arguments are the options of `dsprune audit`.

    Raises:
        UserError: there is nothing to audit at `path`, or a file is damaged.
        CheckFailedError: an invariant does not hold; the message names the first tensor.
    """
    for result in audit_all(path):
        if result.tensors:
            show(_table(result), console)
        if result.findings:
            raise CheckFailedError(result.failure())
        say(console, result.success())


def _table(result: Audit) -> Table:
    regrown = ("regrown",) if result.regrown else ()
    numels, marks = [tensor.numel for tensor in result.tensors], result.regrown or [0] * len(result.tensors)
    names = [*(tensor.name for tensor in result.tensors), "all prunable weights"]
    columns = [[*values, sum(values)] for values in (numels, result.counts, marks)]
    rows = tuple(
        (name, f"{numel:,}", f"{count:,}", percent(count / numel), *([f"{mark:,}"] if regrown else []))
        for name, numel, count, mark in zip(names, *columns, strict=True)
    )
    title = f"{result.folder}, step {result.step}"
    return Table("tensors", title, ("tensor", "weights", "zeros", "sparsity", *regrown), rows)
