#!/usr/bin/env python3
"""Print accuracy, sparsity, size and time of runs: `demo_table.py RUN...`, from summary.json, eval.json and model/."""

import json
import sys
import zlib
from pathlib import Path

from rich.console import Console
from rich.table import Table

COLUMNS = ("run", "accuracy", "sparsity of prunable", "of all weights", "file", "gzip", "steps", "seconds")
CHUNK = 1 << 22


def main(runs: list[Path]) -> None:
    table = Table(*COLUMNS)
    for run in runs:
        table.add_row(*row(run))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print("Zeros make a file compress better, not smaller on disk or faster to run by themselves.")


def row(run: Path) -> tuple[str, ...]:
    """Return the cells of one run."""
    summary = json.loads((run / "summary.json").read_text())
    accuracy = json.loads((run / "eval.json").read_text())["accuracy"]
    sparsity = summary["sparsity"]
    weights = run / "model" / "model.safetensors"
    return (
        run.name,
        f"{accuracy:.2%}",
        f"{sparsity.get('prunable', 0):.2%}",
        f"{sparsity.get('model', 0):.2%}",
        f"{weights.stat().st_size / 1e6:.1f} MB",
        f"{gzip_size(weights) / 1e6:.1f} MB",
        str(summary["steps"]),
        f"{summary['seconds']:.0f}",
    )


def gzip_size(path: Path) -> int:
    """Return the bytes of the file after gzip, without writing it."""
    compressor = zlib.compressobj(wbits=31)
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            size += len(compressor.compress(chunk))
    return size + len(compressor.flush())


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
