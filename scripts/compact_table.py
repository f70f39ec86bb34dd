#!/usr/bin/env python3
"""Print the bytes of a sparse model on disk: `compact_table.py SPARSE [DENSE]`.

SPARSE is a model folder with masks, or a run; DENSE is the model folder before it was pruned.
Shares are of the first row.
"""

import sys
import tempfile
from pathlib import Path

from demo_table import gzip_size
from rich.console import Console
from rich.table import Table

from dsprune.checkpoint.compact.writer import write_compact

FORMS = {"compact": None, "compact, bf16": "bf16", "compact, fp16": "fp16"}
WEIGHTS = ("*.safetensors", "compact.json", "dsprune.json")


def main(sparse: Path, dense: Path | None = None) -> None:
    model = sparse / "model" if (sparse / "model").is_dir() else sparse
    table = Table("weights and masks", "bytes", "share", "gzip", "share")
    for column in table.columns[1:]:
        column.justify = "right"
    with tempfile.TemporaryDirectory() as temporary:
        folders = {"dense": dense} if dense else {}
        folders["sparse, as safetensors"] = model
        for name, dtype in FORMS.items():
            folders[name] = Path(temporary) / name
            write_compact(model, folders[name], dtype)
        first = 0
        for name, folder in folders.items():
            files = [path for pattern in WEIGHTS for path in folder.glob(pattern)]
            size, packed = sum(path.stat().st_size for path in files), sum(map(gzip_size, files))
            first = first or size
            table.add_row(name, f"{size:,}", f"{size / first:.0%}", f"{packed:,}", f"{packed / first:.0%}")
    Console(width=None if sys.stdout.isatty() else 100).print(table)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
