"""Times the core of pruning on the linear layers of BERT-base, 85 M weights, one thread a rank.

python scripts/bench_core.py [--layers 12] [--repeats 5] [--ranks 2]
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dsprune.distributed.comm import Comm
from dsprune.distributed.masks import MaskSet
from dsprune.distributed.selection import select
from dsprune.pure.masks.bits import apply_, apply_eager_, count_kept
from dsprune.pure.methods import ShardContext, get_method
from dsprune.pure.selection.groups import Group, make_groups
from dsprune.pure.selection.passes import Scorer
from dsprune.pure.selection.wire import event_bytes
from dsprune.pure.shard import PrunableTensor, Shard

HIDDEN = 768
SPARSITY = 0.9
SCOPES = ("global", "uniform")


def encoder(layers: int) -> list[PrunableTensor]:
    """The weight matrices of BERT-base's encoder."""
    shapes = [(HIDDEN, HIDDEN)] * 4 + [(4 * HIDDEN, HIDDEN), (HIDDEN, 4 * HIDDEN)]
    return [
        PrunableTensor(f"{layer}.{place}", shape)
        for layer in range(layers)
        for place, shape in enumerate(shapes)
    ]


def partition(tensors: Sequence[PrunableTensor], rank: int, world: int) -> list[Shard]:
    """Rank's equal part of the concatenated tensors, as ZeRO 1 and 2 cut them."""
    total = sum(tensor.numel for tensor in tensors)
    first, last = total * rank // world, total * (rank + 1) // world
    shards, offset = [], 0
    for tensor in tensors:
        start = min(max(first - offset, 0), tensor.numel)
        stop = min(max(last - offset, 0), tensor.numel)
        shards.append(Shard(tensor, start, stop - start))
        offset += tensor.numel
    return shards


def normal_weights(num_weights: int) -> Tensor:
    """Weights as BERT initialises them."""
    return torch.randn(num_weights, generator=torch.Generator().manual_seed(0)) * 0.02


def best_of(repeats: int, function: Callable[[], object]) -> float:
    """Shortest time of some runs, in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def select_once(masks: MaskSet, groups: Sequence[Group], weights: Tensor, comm: Comm) -> list[Tensor]:
    """Selects new masks by magnitude; `weights` are this rank's, one shard after the other."""
    shards = masks.shards
    method = get_method("magnitude")
    views = weights.split([shard.numel for shard in shards])
    contexts = [
        ShardContext(shard.tensor, range(shard.start, shard.start + shard.numel), view)
        for shard, view in zip(shards, views, strict=True)
    ]
    scorers = [Scorer(lambda part, c=context: method.scores(c[part]), method.absolute) for context in contexts]
    return select(shards, scorers, masks.bits, groups, comm)


def time_rank(rank: int, world: int, layers: int, repeats: int, folder: str) -> None:
    """Times selection as one rank of a world, and writes (milliseconds, bytes, pruned) for each scope."""
    torch.set_num_threads(1)
    store = (Path(folder) / "store").as_uri()
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    tensors = encoder(layers)
    shards = partition(tensors, rank, world)
    weights = normal_weights(sum(t.numel for t in tensors)).chunk(world)[rank]
    masks = MaskSet(shards)
    rows = {}
    for scope in SCOPES:
        groups = make_groups(tensors, [SPARSITY] * len(tensors), uniform=scope == "uniform")
        comm = Comm(dist.group.WORLD)
        bits = select_once(masks, groups, weights, comm)
        sent = comm.bytes_sent
        pruned = sum(s.numel - count_kept(b) for s, b in zip(shards, bits, strict=True))
        milliseconds = best_of(repeats, partial(select_once, masks, groups, weights, comm))
        rows[scope] = (milliseconds, sent, pruned)
    torch.save(rows, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def selection_by_world(layers: int, repeats: int, worlds: Sequence[int]) -> Table:
    """Time and bytes of one event, and that every world prunes as many."""
    table = Table(
        "scope", "ranks", "ms a rank", "bytes sent a rank", "predicted", "pruned", title="selection"
    )
    tensors = encoder(layers)
    for world in worlds:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(time_rank, (world, layers, repeats, folder), nprocs=world)
            ranks = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(world)]
        for scope in SCOPES:
            num_groups = len(tensors) if scope == "uniform" else 1
            milliseconds = max(rows[scope][0] for rows in ranks)
            sent = max(rows[scope][1] for rows in ranks)
            predicted = event_bytes(num_groups, len(tensors), world)
            pruned = sum(rows[scope][2] for rows in ranks)
            table.add_row(
                scope, str(world), f"{milliseconds:.0f}", f"{sent:,}", f"{predicted:,}", f"{pruned:,}"
            )
    return table


def selection_against_torch(layers: int, repeats: int) -> Table:
    """One rank's selection, new masks included, against the threshold alone of gathered magnitudes."""
    tensors = encoder(layers)
    masks = MaskSet(partition(tensors, 0, 1))
    weights = normal_weights(sum(tensor.numel for tensor in tensors))
    groups = make_groups(tensors, [SPARSITY] * len(tensors), uniform=False)
    magnitudes = weights.abs()
    ours = best_of(repeats, lambda: select_once(masks, groups, weights, Comm()))
    table = Table("way", "ms", "times ours", title=f"{weights.numel():,} weights, global scope, one rank")
    table.add_row("select", f"{ours:.0f}", "1")
    for name, function in (
        ("torch.kthvalue", lambda: magnitudes.kthvalue(groups[0].num_pruned)),
        ("torch.sort", lambda: magnitudes.sort()),
    ):
        theirs = best_of(1, function)
        table.add_row(name, f"{theirs:.0f}", f"{theirs / ours:.1f}")
    return table


def masking(layers: int, repeats: int) -> Table:
    """Masking all gradients against one step of fused AdamW, and what the masks weigh."""
    tensors = encoder(layers)
    shards = partition(tensors, 0, 1)
    weights = torch.nn.Parameter(normal_weights(sum(tensor.numel for tensor in tensors)))
    groups = make_groups(tensors, [SPARSITY] * len(tensors), uniform=False)
    masks = MaskSet(shards)
    masks.replace(select_once(masks, groups, weights.detach(), Comm()))
    gradient = weights.grad = torch.ones_like(weights)
    views = gradient.split([shard.numel for shard in shards])
    adam = torch.optim.AdamW([weights], fused=True)
    step = best_of(repeats, adam.step)
    bits_a_weight = 8 * masks.nbytes / weights.numel()
    table = Table("act", "ms", "of AdamW", title=f"masking, {bits_a_weight:.3f} bits of mask a weight")
    table.add_row("fused AdamW step", f"{step:.0f}", "100 %")
    acts: tuple[tuple[str, Callable[[], object]], ...] = (
        ("apply_", lambda: [apply_(b, v) for b, v in zip(masks.bits, views, strict=True)]),
        ("apply_eager_", lambda: [apply_eager_(b, v) for b, v in zip(masks.bits, views, strict=True)]),
        ("mul_ by 1.0 (read and write all)", lambda: gradient.mul_(1.0)),
    )
    for name, act in acts:
        cost = best_of(repeats, act)
        table.add_row(name, f"{cost:.0f}", f"{100 * cost / step:.0f} %")
    return table


def main() -> None:
    """Prints every section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="of BERT-base's 12")
    parser.add_argument("--repeats", type=int, default=5, help="the best of so many runs counts")
    parser.add_argument("--ranks", type=int, default=2, help="largest world")
    args = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    console.print(masking(args.layers, args.repeats))
    console.print(selection_against_torch(args.layers, args.repeats))
    console.print(selection_by_world(args.layers, args.repeats, range(1, args.ranks + 1)))


if __name__ == "__main__":
    main()
