"""The cost of the masks in a checkpoint of BERT-base: bytes, and time to save and to load them."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from rich.table import Table

from bench.engine import bert_engine
from bench.figures import table_with
from bench.tools import milliseconds, on_ranks
from dsprune.checkpoint.saved_masks import load_masks, save_masks

__all__ = ["checkpoints"]


def checkpoints(ranks: Iterable[int], stages: Iterable[int], precisions: Iterable[str]) -> Table:
    """Measure the masks of a checkpoint, and the complete checkpoint."""
    columns = ("ZeRO", "precision", "ranks", "masks MB", "total MB", "share", "goal")
    seconds = ("save masks s", "save s", "load masks s", "load s")
    table = table_with("Masks in a checkpoint of BERT-base, after the first mask update", columns + seconds)
    for precision in precisions:
        for stage in stages:
            for world in ranks:
                with tempfile.TemporaryDirectory() as folder:
                    [sizes, *_] = on_ranks(world, measure, stage, precision, folder)
                (part, total), times = sizes
                table.add_row(
                    str(stage), precision, str(world), f"{part / 1e6:.1f}", f"{total / 1e6:.0f}",
                    f"{part / total:.2%}", "1.5 %", *(f"{time / 1000:.2f}" for time in times),
                )  # fmt: skip
    return table


def measure(stage: int, precision: str, folder: str) -> tuple[tuple[int, int], list[float]]:
    """Return the bytes of the masks and in total, and the milliseconds to save masks and total, and to load them."""
    engine = bert_engine(stage, precision, updates=2)
    tokens, labels = torch.randint(1000, 30_000, (1, 8)), torch.zeros(1, dtype=torch.int64)
    while engine.sparsity()["sparsity_prunable"] == 0:
        engine.backward(engine(input_ids=tokens, labels=labels).loss)
        engine.step()
    pruner, alone, tag = engine.pruner, Path(folder, "alone"), Path(folder, "all", "tag")
    assert pruner is not None
    times = [
        milliseconds(lambda: save_masks(alone, pruner.state, engine.applied_steps, accumulators=True)),
        milliseconds(lambda: engine.save_checkpoint(str(tag.parent), tag.name)),
        milliseconds(lambda: load_masks(alone, pruner.state, engine.applied_steps)),
        milliseconds(lambda: engine.load_checkpoint(str(tag.parent), tag.name)),
    ]
    part, total = (sum(path.stat().st_size for path in folder.iterdir()) for folder in (alone, tag))
    return (part, total), times
