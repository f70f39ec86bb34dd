"""Show what a mask update and its checkpoint take on one of thousands of ranks. Needs 5 GB of memory for a 70 B model.

python scripts/simulate.py [--model llama-70b] [--ranks 4096] [--least 64] [--scope global] [--hop 5]

This process works as one rank with its share of the weights; the counts of the other ranks are drawn from the
distribution of the weights. Columns, all of one rank:

weights     its share of the prunable weights
CPU ms      its own work in a mask update
messages    all-reduces of a mask update
bytes       what it sends in them, and receives
their ms    an estimate: an all-reduce passes 2 log2(ranks) times between hosts, each in --hop microseconds
masks       its masks, in memory and in a checkpoint
temporary   the most memory that a mask update takes beside weights and masks
gathered    what the first rank collects of all ranks for the manifest of a checkpoint
manifest    what it writes there
"""

import argparse
import pickle
from math import log2
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from bench.simulation import MODELS, Update, shards_of, simulate_update, tensors_of
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from dsprune.masks.manifest import MaskManifest, TensorEntry
from dsprune.masks.slice_files import entry_of
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.schedule import Timetable
from dsprune.selection.groups import make_groups
from dsprune.selection.traffic import update_bytes

SPARSITY = 0.9

COLUMNS = (
    "ranks", "weights", "CPU ms", "messages", "bytes", "their ms", "masks", "temporary", "gathered", "manifest",
)  # fmt: skip


def row(tensors: list[PrunableTensor], scope: str, world: int, hop: float) -> list[str]:
    """Return the cells of one number of ranks, for the rank in the middle."""
    groups, rank = make_groups(tensors, [SPARSITY] * len(tensors), scope), world // 2
    update: Update = simulate_update(tensors, groups, rank, world, repeats=3)
    zeros, wanted = sum(update.num_pruned), sum(group.num_pruned for group in groups)
    if zeros != wanted or update.sent > update_bytes(groups, world):
        raise RuntimeError(f"{world} ranks: {zeros:,} zeros of {wanted:,}, {update.sent:,} bytes sent")
    own = shards_of(tensors, rank, world)[0]
    gathered, written = manifest_bytes(own, rank, world)
    return [
        f"{world:,}", f"{sum(shard.numel for shard in own):,}", f"{1000 * update.seconds:,.0f}",
        str(update.messages), decimal(update.sent), f"{update.messages * 2 * log2(world) * hop / 1000:.2f}",
        decimal(update.mask_bytes), decimal(update.temporary_bytes), decimal(gathered),
        decimal(written),
    ]  # fmt: skip


def manifest_bytes(own: list[Shard], rank: int, world: int) -> tuple[int, int]:
    """Return what the first rank gathers of ranks that are all as this one, and what it writes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"masks-{rank:05d}-of-{world:05d}.safetensors"
        path.touch()
        entry = entry_of(path, own)
    tensors = {
        shard.tensor.name: TensorEntry(shape=shard.tensor.shape, target=SPARSITY, num_pruned=10**9)
        for shard in own
    }
    manifest = MaskManifest(
        step=10**6, timetable=Timetable(10**6, 10**5, 0, (), True, 0.1, 0.1, 0.0), scope="global", digest=2**62,
        tensors=tensors, files=(entry,) * world,
    )  # fmt: skip
    record = pickle.dumps([entry.model_dump_json(exclude_none=True)])
    return len(record) * world, len(manifest.to_json())


def main() -> None:
    """Print a row for each number of ranks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="llama-70b")
    parser.add_argument("--ranks", type=int, default=4096, help="largest number of ranks")
    parser.add_argument("--least", type=int, default=64, help="smallest number of ranks")
    parser.add_argument("--scope", choices=("global", "uniform"), default="global")
    parser.add_argument("--hop", type=float, default=5.0, help="microseconds from one host to another")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tensors = tensors_of(args.model)
    total = sum(tensor.numel for tensor in tensors)
    title = f"{args.model}: {total:,} prunable weights in {len(tensors)} tensors, {args.scope}"
    table = Table(title=title)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    world = args.ranks
    rows = []
    while world >= max(args.least, 2):
        rows.append(row(tensors, args.scope, world, args.hop))
        world //= 2
    for cells in reversed(rows):
        table.add_row(*cells)
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
