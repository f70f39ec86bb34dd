"""The cost of masking and of a mask update on an accelerator, counted without one.

CPU tensors replace those of the accelerator. torch's dispatch reports the operations on them and their memory. The
launches of Triton are counted, and compiled C functions replace the kernels.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.figures import table_with
from bench.selection import groups_of, partition, select_once
from bench.twins import TWINS
from dsprune.kernels import accelerator
from dsprune.masks.bits import apply_all_
from dsprune.masks.mask_set import MaskSet
from dsprune.model.shard import PrunableTensor
from dsprune.ranks.collectives import Comm

__all__ = ["launches"]

NUM_WEIGHTS = 84_934_656  # as in BERT-base


def launches(counts: Sequence[int]) -> Iterator[Table]:
    """Yield a table of a step, and one of a mask update."""
    columns = ("tensors", "launches", "waits", "B per weight", "temporaries")
    step = table_with("Masking the gradients on an accelerator; bytes per weight", ("gradients", *columns))
    update = table_with("A mask update on an accelerator; bytes per weight", ("scope", *columns))
    for count in counts:
        for name, dtype, flat in GRADIENTS:
            step.add_row(name, str(count), *count_step(count, dtype, flat).cells())
        for scope in ("global", "uniform"):
            selection, zeroing = count_update(count, scope)
            update.add_row(f"{scope}, selection", str(count), *selection.cells())
            update.add_row(f"{scope}, ties", str(count), *count_update(count, scope, True)[0].cells())
            update.add_row(f"{scope}, zeroing", str(count), *zeroing.cells())
    yield step
    yield update


GRADIENTS = (
    # at stages 0 and 1 a new tensor for each parameter, else one buffer
    ("fp32, stages 0, 1", torch.float32, False),
    ("fp32, stages 2, 3", torch.float32, True),
    ("bf16, stages 0, 1", torch.bfloat16, False),
    ("bf16, stages 2, 3", torch.bfloat16, True),
)


@dataclass
class Counts:
    """The counts.

    Attributes:
        launches: kernels and copies.
        waits: number of times that the CPU waits for the accelerator.
        num_bytes: bytes read and written by kernels and copies.
        held: current bytes of temporaries.
        peak: peak bytes of temporaries.
    """

    launches: int = 0
    waits: int = 0
    num_bytes: int = 0
    held: int = 0
    peak: int = 0
    storages: set[int] = field(default_factory=set)

    def cells(self) -> list[str]:
        """Return the cells of a row of a table."""
        a_weight = (f"{number / NUM_WEIGHTS:.3f}" for number in (self.num_bytes, self.peak))
        return [str(self.launches), str(self.waits), *a_weight]

    def launch(self, num_bytes: int) -> None:
        """Count a launch."""
        self.launches += 1
        self.num_bytes += num_bytes

    def take(self, values: Tensor) -> None:
        """Treat a tensor as one on the accelerator, and count its memory while it exists."""
        storage = values.untyped_storage()
        if storage._cdata in self.storages:
            return
        self.storages.add(storage._cdata)
        self.held += storage.nbytes()
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._release, storage._cdata, storage.nbytes())

    def _release(self, key: int, num_bytes: int) -> None:
        self.storages.discard(key)
        self.held -= num_bytes


class Dispatch(TorchDispatchMode):
    """Counts torch's operations on tensors that replace those of the accelerator."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation; results from the accelerator's tensors are on the accelerator too."""
        result = func(*args, **(kwargs or {}))
        given = [value for value in args if isinstance(value, Tensor) and self._is_there(value)]
        made = [value for value in (result if isinstance(result, (list, tuple)) else [result]) if given]
        if given and func is torch.ops.aten._local_scalar_dense.default:
            self.counts.waits += 1
        elif given and not func.is_view and "empty" not in str(func):
            self.counts.launch(sum(value.nbytes for value in [*given, *made] if isinstance(value, Tensor)))
        for value in made:
            if isinstance(value, Tensor):
                self.counts.take(value)
        return result

    def _is_there(self, value: Tensor) -> bool:
        return value.untyped_storage()._cdata in self.counts.storages


@contextmanager
def counting(*there: Tensor) -> Iterator[Counts]:
    """Count the operations of the block on an accelerator that has some tensors."""
    counts = Counts()
    for values in there:
        counts.take(values)
    counts.held = counts.peak = 0
    empty = torch.empty

    def upload(values: Tensor, device: torch.device) -> Tensor:
        copy = values.clone()
        counts.launch(copy.nbytes)
        counts.take(copy)
        return copy

    def fetch(values: Tensor) -> Tensor:
        counts.launch(values.nbytes)
        counts.waits += 1
        return values.clone()

    def launch(name: str, *args: Any, **types: Any) -> None:
        counts.launch(TWINS[name](*args, **types))

    def allocate(*args: Any, **kwargs: Any) -> Tensor:
        values = empty(*args, **kwargs)
        if kwargs.get("device") is not None and values.device.type == "cpu":
            counts.take(values)
        return values

    replaced = {"DEVICES": ("cpu",), "_to": upload, "_fetch": without(counts, fetch), "_launch": launch}
    accelerator._mask_table.cache_clear()
    accelerator._owners.cache_clear()
    with mock.patch.multiple(accelerator, **replaced), mock.patch("torch.empty", allocate), Dispatch(counts):
        yield counts


def without(counts: Counts, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a function whose result is on the CPU."""

    def call(values: Tensor) -> Tensor:
        with torch.utils._python_dispatch._disable_current_modes():
            return function(values)

    return call


def count_step(count: int, dtype: torch.dtype, flat: bool) -> Counts:
    """Count the cost of masking the gradients of `count` tensors."""
    masks = MaskSet(partition(tensors_of(count), 0, 1))
    sizes = [shard.numel for shard in masks.shards]
    if flat:
        gradients = list(torch.ones(sum(sizes), dtype=dtype).split(sizes))
    else:
        gradients = [torch.ones(size, dtype=dtype) for size in sizes]
    again = gradients if flat else [gradient.clone() for gradient in gradients]
    with counting(*gradients, *again, *masks.bits) as counts:
        apply_all_(masks.bits, gradients)  # the first step also makes a table, which later steps reuse
        counts.launches = counts.num_bytes = 0
        apply_all_(masks.bits, again)
    return counts


def count_update(count: int, scope: str, half_equal: bool = False) -> tuple[Counts, Counts]:
    """Count the cost of a selection among `count` tensors, and of zeroing the weights and both moments.

    Half of the weights may be equal; some but not all of these are pruned.
    """
    tensors = tensors_of(count)
    masks = MaskSet(partition(tensors, 0, 1))
    weights = torch.randn(sum(tensor.numel for tensor in tensors), generator=torch.Generator().manual_seed(0))
    if half_equal:
        weights[::2] = 2.0
    groups = groups_of(tensors, scope)
    wanted = select_once(masks, groups, weights, Comm())
    with counting(weights, *masks.bits) as selection:
        found = select_once(masks, groups, weights, Comm())
        selection.held = selection.peak = selection.peak - sum(bits.numel() for bits in found)
    assert all(map(torch.equal, found, wanted))
    views = [view for _ in range(3) for view in weights.split([tensor.numel for tensor in tensors])]
    with counting(weights, *found) as zeroing:
        apply_all_(found * 3, views)
    return selection, zeroing


def tensors_of(count: int) -> list[PrunableTensor]:
    """Return tensors with the total size of those of BERT-base."""
    sizes = [NUM_WEIGHTS // count + (place < NUM_WEIGHTS % count) for place in range(count)]
    return [PrunableTensor(f"{place}", (size,)) for place, size in enumerate(sizes)]
