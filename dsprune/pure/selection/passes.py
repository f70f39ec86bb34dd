"""The two passes that selection makes over a shard. Scores are computed a chunk at a time, and never kept."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from dsprune.pure.masks.bits import num_bytes, pack, unpack
from dsprune.pure.masks.kernel import kernel_for
from dsprune.pure.selection.keys import NAN_KEY, to_keys

__all__ = ["Scan", "Scorer", "cut", "cut_eager", "parts", "scan", "scan_eager"]

Scorer = Callable[[slice], Tensor]
"""Gives the float32 scores of a part of a shard, lowest pruned first; the same ones whatever the part."""

CHUNK = {"cpu": 1 << 18}  # weights whose score and temporaries fit a core's cache
CHUNK_ACCELERATOR = 1 << 24


class Scan(NamedTuple):
    """What a scan found.

    Attributes:
        num_below: number of keys below the range.
        num_nan: number of NaN scores.
        inside: the keys in the range, in order.
    """

    num_below: int
    num_nan: int
    inside: Tensor


def scan(scorer: Scorer, numel: int, kept: Tensor, low: int, high: int) -> Scan:
    """Counts the keys of a shard below `low` and copies those in `[low, high]`."""
    found = []
    for part in parts(numel, kept.device):
        scores = scorer(part).contiguous()
        kernel = kernel_for(scores)
        scan_chunk = scan_eager if kernel is None else kernel.scan
        found.append(scan_chunk(scores, _bits_of(kept, part), low, high))
    inside = torch.cat([keys for _, _, keys in found]) if found else kept.new_empty(0, dtype=torch.int32)
    return Scan(sum(below for below, _, _ in found), sum(nan for _, nan, _ in found), inside)


def cut(scorer: Scorer, numel: int, kept: Tensor, threshold: int, quota: int) -> Tensor:
    """Returns the new packed mask: pruned are keys below the threshold and the first `quota` equal to it."""
    new_kept = torch.empty_like(kept)
    for part in parts(numel, kept.device):
        scores = scorer(part).contiguous()
        kernel = kernel_for(scores)
        cut_chunk = cut_eager if kernel is None else kernel.cut
        quota = cut_chunk(scores, _bits_of(kept, part), threshold, quota, _bits_of(new_kept, part))
    assert quota == 0, f"{quota} ties are missing"
    return new_kept


def scan_eager(scores: Tensor, kept: Tensor, low: int, high: int) -> tuple[int, int, Tensor]:
    """One chunk of `scan`."""
    keys = to_keys(scores, unpack(kept, scores.numel()))
    num_below = int(torch.count_nonzero(keys < low))
    num_nan = int(torch.count_nonzero(keys == NAN_KEY))
    return num_below, num_nan, keys[(keys >= low) & (keys <= high)]


def cut_eager(scores: Tensor, kept: Tensor, threshold: int, quota: int, new_kept: Tensor) -> int:
    """One chunk of `cut`: writes `new_kept`, returns what is left of the quota."""
    keys = to_keys(scores, unpack(kept, scores.numel()))
    keep = keys >= threshold
    if quota:
        ties = (keys == threshold).nonzero().view(-1)[:quota]
        keep[ties] = False
        quota -= ties.numel()
    new_kept.copy_(pack(keep))
    return quota


def parts(numel: int, device: torch.device) -> Iterator[slice]:
    """Cuts a shard into parts to be worked on one by one; all start at a byte of the mask."""
    step = CHUNK.get(device.type, CHUNK_ACCELERATOR)
    for start in range(0, numel, step):
        yield slice(start, min(start + step, numel))


def _bits_of(kept: Tensor, part: slice) -> Tensor:
    return kept[part.start // 8 : num_bytes(part.stop)]
