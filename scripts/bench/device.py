"""The cost of masking and selection on a GPU, compared with torch's bandwidth."""

from collections.abc import Callable
from functools import partial

import torch
from rich.table import Table

from bench.figures import table_with
from bench.launches import NUM_WEIGHTS, tensors_of
from bench.selection import groups_of, kthvalues, partition, select_once
from dsprune.masks.bits import apply_all_
from dsprune.masks.mask_set import MaskSet
from dsprune.ranks.collectives import Comm

__all__ = ["on_device"]


def on_device(repeats: int, count: int = 72) -> Table:
    """Measure masking and selection of `NUM_WEIGHTS` weights in some tensors on this machine's GPU."""
    tensors = tensors_of(count)
    masks = MaskSet(partition(tensors, 0, 1), "cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    weights = torch.randn(NUM_WEIGHTS, device="cuda", generator=generator)
    columns = ("pass", "ms", "beside", "its ms")
    table = table_with(f"{torch.cuda.get_device_name()}: {NUM_WEIGHTS:,} weights in {count} tensors", columns)
    for dtype in (torch.float32, torch.bfloat16):
        gradients = weights.to(dtype)
        views = gradients.split([tensor.numel for tensor in tensors])
        masking = shortest(repeats, partial(apply_all_, masks.bits, views))
        add_row(table, f"masking, {dtype}", masking, "mul_", shortest(repeats, partial(gradients.mul_, 1.0)))
    for scope in ("global", "uniform"):
        groups = groups_of(tensors, scope)
        ours = shortest(repeats, partial(select_once, masks, groups, weights, Comm()))
        kth = shortest(2, partial(kthvalues, weights.abs(), groups))
        add_row(table, f"selection, {scope}", ours, "kthvalue", kth)
    return table


def add_row(table: Table, what: str, ours: float, beside: str, theirs: float) -> None:
    table.add_row(what, f"{ours:.3f}", beside, f"{theirs:.3f}")


def shortest(repeats: int, function: Callable[[], object]) -> float:
    """Return the milliseconds of the fastest of some calls, by the GPU's clock; the first call compiles."""
    function()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return min(times)
