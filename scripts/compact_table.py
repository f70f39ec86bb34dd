#!/usr/bin/env python3
"""Print the bytes of a sparse model on disk and, with --test, its accuracy in each form.

Fractions refer to the first row. A run with `model.vocabulary: used` has a row for its model with only the used tokens.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from demo_table import gzip_size
from rich.console import Console
from rich.table import Table

from dsprune.checkpoint.compact.format import is_compact
from dsprune.checkpoint.compact.reader import expand_compact
from dsprune.checkpoint.compact.writer import write_compact
from dsprune.commands.export import export
from dsprune.model.pretrained import load_config, load_tokenizer
from dsprune.recipe import Task, load_recipe
from dsprune.tasks.build import build_task
from dsprune.train.evaluation import evaluate_model
from dsprune.train.run_folder import RunFolder

FORMS = {"compact": None, "compact, bf16": "bf16", "compact, fp16": "fp16"}
TRIMMED = "compact, fp16, used tokens"
WEIGHTS = ("*.safetensors", "compact.json", "dsprune.json")


def main(sparse: Path, dense: Path | None, test: str | None) -> None:
    table = Table("weights and masks", "bytes", "share", "gzip", "share")
    task = None
    if test is not None:
        task = load_recipe(str(RunFolder(sparse).recipe)).task.model_copy(update={"validation": test})
        table.add_column("accuracy")
        table.add_column("unknown")
    for column in table.columns[1:]:
        column.justify = "right"
    with tempfile.TemporaryDirectory() as temporary:
        first = 0
        for name, folder in forms(sparse, dense, Path(temporary)):
            files = [path for pattern in WEIGHTS for path in folder.glob(pattern)]
            size, packed = sum(path.stat().st_size for path in files), sum(map(gzip_size, files))
            first = first or size
            cells = [name, f"{size:,}", f"{size / first:.0%}", f"{packed:,}", f"{packed / first:.0%}"]
            table.add_row(*cells, *(tested(folder, task) if task else ()))
    Console(width=None if sys.stdout.isatty() else 110).print(table)


def forms(sparse: Path, dense: Path | None, temporary: Path) -> Iterator[tuple[str, Path]]:
    """Yield the forms of the model by name, the large ones first."""
    model = sparse / "model" if (sparse / "model").is_dir() else sparse
    if dense is not None:
        yield "dense", dense
    yield "sparse, as safetensors", model
    for name, dtype in FORMS.items():
        write_compact(model, temporary / name, dtype)
        yield name, temporary / name
    if RunFolder(sparse).vocabulary.exists():
        export(sparse, None, temporary / "used", Console(quiet=True), trimmed=True)
        write_compact(temporary / "used", temporary / TRIMMED, "fp16")
        yield TRIMMED, temporary / TRIMMED


def tested(folder: Path, task: Task) -> tuple[str, str]:
    """Return the accuracy of a model, and the number of tokens that its tokenizer does not know."""
    if is_compact(folder):
        expanded = folder.with_name(f"{folder.name}, expanded")
        expand_compact(folder, expanded)
        folder = expanded
    tokenizer = load_tokenizer(str(folder))
    data = build_task(task).for_model(load_config(str(folder))).prepare("validation", tokenizer)
    num_unknown = sum(list(tokens).count(tokenizer.unk_token_id) for tokens in data["input_ids"])
    metrics = evaluate_model(str(folder), task, device=torch.device("cpu"))
    return f"{next(iter(metrics.values())):.2%}", f"{num_unknown:,}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sparse", type=Path, help="a model folder with masks, or a run")
    parser.add_argument("dense", type=Path, nargs="?", help="the model folder before it was pruned")
    parser.add_argument(
        "--test", help="data to evaluate each form of a run on, such as data/sentiment/validation.csv"
    )
    main(**vars(parser.parse_args()))
