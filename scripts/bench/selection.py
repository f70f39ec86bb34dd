"""The selection of a mask update on the linear layers of BERT-base, 84.9 M weights, and masking the gradients."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.distributed as dist
from rich.table import Table
from torch import Tensor

from bench.figures import table_with
from bench.tools import best_of, milliseconds, on_ranks
from dsprune.masks.bits import apply_, apply_all_, apply_eager_, count_kept
from dsprune.masks.mask_set import MaskSet
from dsprune.methods.method import Method, ShardContext
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.ranks.collectives import Comm
from dsprune.registry import METHODS
from dsprune.selection import select
from dsprune.selection.groups import Group, make_groups
from dsprune.selection.scan import Scorer
from dsprune.selection.traffic import update_bytes

__all__ = ["against_torch", "by_ranks", "by_threads", "masking"]

HIDDEN, LAYERS = 768, 12
SPARSITY = 0.9
SCOPES = ("global", "uniform")


def against_torch(repeats: int) -> Table:
    """Compare one rank's selection, new masks included, with finding thresholds alone among given magnitudes."""
    tensors = encoder()
    masks = MaskSet(partition(tensors, 0, 1))
    weights = normal_weights(tensors)
    magnitudes = weights.abs()
    columns = ("scope", "dsprune", "torch.kthvalue", "torch.sort", "kthvalue / dsprune", "goal")
    table = table_with(f"Milliseconds to select of {weights.numel():,} weights on one rank", columns)
    for scope in SCOPES:
        groups = groups_of(tensors, scope)
        ours = best_of(repeats, partial(select_once, masks, groups, weights, Comm()))
        kth = best_of(2, partial(kthvalues, magnitudes, groups))
        sort = best_of(1, partial(sorts, magnitudes, groups))
        goal = "10 x" if scope == "global" else ""
        table.add_row(scope, f"{ours:.0f}", f"{kth:.0f}", f"{sort:.0f}", f"{kth / ours:.1f} x", goal)
    return table


def kthvalues(magnitudes: Tensor, groups: Sequence[Group]) -> list[Tensor]:
    """Return the thresholds of the groups, whose weights are consecutive."""
    parts = magnitudes.split([group.num_weights for group in groups])
    return [part.kthvalue(group.num_pruned).values for part, group in zip(parts, groups, strict=True)]


def sorts(magnitudes: Tensor, groups: Sequence[Group]) -> list[Tensor]:
    """Return the same thresholds by sorting each group."""
    parts = magnitudes.split([group.num_weights for group in groups])
    return [part.sort().values[group.num_pruned - 1] for part, group in zip(parts, groups, strict=True)]


def by_ranks(repeats: int, worlds: Sequence[int]) -> Table:
    """Measure time and bytes of one mask update by number of ranks, and count the zeros, which must be equal."""
    columns = ("scope", "ranks", "ms", "bytes", "at most", "a group", "goal", "zeros")
    table = table_with("Selection by number of ranks: the slowest rank of each", columns)
    tensors = encoder()
    for scope in SCOPES:
        groups = groups_of(tensors, scope)
        for world in worlds:
            times, sent, pruned = zip(*on_ranks(world, time_rank, scope, repeats), strict=True)
            table.add_row(
                scope, str(world), f"{max(times):.0f}", f"{max(sent):,}",
                f"{update_bytes(groups, world):,}",
                f"{max(sent) / len(groups):,.0f}", "65,536", f"{sum(pruned):,}",
            )  # fmt: skip
    return table


def masking(repeats: int) -> Table:
    """Measure the size of the masks, and compare masking all gradients with a pass that only reads and writes."""
    tensors = encoder()
    masks = MaskSet(partition(tensors, 0, 1))
    gradient = normal_weights(tensors)
    masks.replace(select_once(masks, groups_of(tensors, "global"), gradient, Comm()))
    views = gradient.split([tensor.numel for tensor in tensors])
    bits_a_weight = 8 * masks.nbytes / gradient.numel()
    nothing = best_of(repeats, lambda: gradient.mul_(1.0))
    columns = ("pass", "ms", "of reading and writing")
    table = table_with(f"Masking all gradients ({bits_a_weight:.3f} bits of mask a weight; goal 1)", columns)
    table.add_row("mul_ by 1.0: reads and writes all", f"{nothing:.0f}", "100 %")
    for name, apply in (("apply_", apply_), ("apply_eager_: no compiler", apply_eager_)):
        cost = best_of(repeats, partial(apply_all, apply, masks.bits, views))
        table.add_row(name, f"{cost:.0f}", f"{100 * cost / nothing:.0f} %")
    return table


def by_threads(repeats: int, counts: Sequence[int]) -> Table:
    """Compare masking and selection by number of threads, alternately."""
    tensors = encoder()
    masks, weights = MaskSet(partition(tensors, 0, 1)), normal_weights(tensors)
    views = weights.split([tensor.numel for tensor in tensors])
    works: dict[str, Callable[[], object]] = {
        f"selection, {scope}": partial(select_once, masks, groups_of(tensors, scope), weights, Comm())
        for scope in SCOPES
    }
    works["masking"] = partial(apply_all_, masks.bits, views)
    title = f"Milliseconds of one rank by number of threads, {weights.numel():,} weights"
    table = table_with(title, ("work", *map(str, counts)))
    for name, work in works.items():
        times: dict[int, list[float]] = {count: [] for count in counts}
        for count in [*counts] * repeats:
            torch.set_num_threads(count)
            times[count].append(milliseconds(work))
        table.add_row(name, *(f"{min(found):.0f}" for found in times.values()))
    torch.set_num_threads(1)
    return table


def apply_all(
    apply: Callable[[Tensor, Tensor], None], bits: Sequence[Tensor], views: Sequence[Tensor]
) -> None:
    """Mask every tensor."""
    for row, view in zip(bits, views, strict=True):
        apply(row, view)


def time_rank(scope: str, repeats: int) -> tuple[float, int, int]:
    """Return this rank's milliseconds of a selection, the bytes it sends, and the weights it prunes."""
    rank, world = dist.get_rank(), dist.get_world_size()
    tensors = encoder()
    masks = MaskSet(partition(tensors, rank, world))
    weights = normal_weights(tensors).chunk(world)[rank]
    groups = groups_of(tensors, scope)
    comm = Comm(dist.group.WORLD)
    bits = select_once(masks, groups, weights, comm)
    sent = comm.bytes_sent
    pruned = sum(s.numel - count_kept(b) for s, b in zip(masks.shards, bits, strict=True))
    return best_of(repeats, partial(select_once, masks, groups, weights, comm)), sent, pruned


def select_once(masks: MaskSet, groups: Sequence[Group], weights: Tensor, comm: Comm) -> list[Tensor]:
    """Select new masks by magnitude; `weights` are this rank's, one shard after the other."""
    return select_views(masks, groups, weights.split([shard.numel for shard in masks.shards]), comm)


def select_views(
    masks: MaskSet, groups: Sequence[Group], views: Sequence[Tensor], comm: Comm
) -> list[Tensor]:
    """Select new masks by magnitude; `views` are the 1-D weights of this rank's shards."""
    method = METHODS.get("magnitude")()
    scorers = []
    for shard, view in zip(masks.shards, views, strict=True):
        context = ShardContext(shard.tensor, range(shard.start, shard.start + shard.numel), view)
        scorers.append(
            Scorer(partial(scores_of_part, method, context), method.absolute, method.product(context))
        )
    return select(masks.shards, scorers, masks.bits, groups, comm)


def scores_of_part(method: Method, context: ShardContext, part: slice) -> Tensor:
    """Return the scores of a part of a shard, like the engine's pruner."""
    return method.scores(context[part])


def encoder(layers: int = LAYERS, hidden: int = HIDDEN) -> list[PrunableTensor]:
    """Return the weight matrices of BERT-base's encoder, or of a smaller one."""
    shapes = [(hidden, hidden)] * 4 + [(4 * hidden, hidden), (hidden, 4 * hidden)]
    return [
        PrunableTensor(f"{layer}.{place}", shape)
        for layer in range(layers)
        for place, shape in enumerate(shapes)
    ]


def groups_of(tensors: Sequence[PrunableTensor], scope: str) -> list[Group]:
    """Return the groups of tensors that share a number of zeros."""
    return make_groups(tensors, [SPARSITY] * len(tensors), scope)


def partition(tensors: Sequence[PrunableTensor], rank: int, world: int) -> list[Shard]:
    """Return a rank's equal part of the concatenated tensors, as ZeRO 1 and 2 partition them."""
    total = sum(tensor.numel for tensor in tensors)
    first, last = total * rank // world, total * (rank + 1) // world
    shards, offset = [], 0
    for tensor in tensors:
        start = min(max(first - offset, 0), tensor.numel)
        stop = min(max(last - offset, 0), tensor.numel)
        shards.append(Shard(tensor, start, stop - start))
        offset += tensor.numel
    return shards


def normal_weights(tensors: Sequence[PrunableTensor]) -> Tensor:
    """Return weights as BERT initialises them, one tensor after the other."""
    num_weights = sum(tensor.numel for tensor in tensors)
    return torch.randn(num_weights, generator=torch.Generator().manual_seed(0)) * 0.02
