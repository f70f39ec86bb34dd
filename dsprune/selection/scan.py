"""Scores as integers whose order is the order in which weights are pruned.

The bits of a float, read as an integer, are monotone once negative numbers are reflected; so selection
counts and compares integers and is exact. Three kinds of weight have a key of their own:

    a weight that is pruned already   PRUNED_KEY   below all others: it stays pruned
    a score of -0.0                   0            the key of +0.0: equal scores have equal keys
    a score that is NaN               NAN_KEY      above all others: counted and refused
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dsprune.masks.bits import num_bytes, pack, prune_, unpack
from dsprune.masks.kernel import kernel_for

__all__ = [
    "HIGHEST_KEY",
    "LOWEST_KEY",
    "NAN_KEY",
    "PRUNED_KEY",
    "Scan",
    "Scorer",
    "parts",
    "scan",
    "scan_eager",
    "settle",
    "to_keys",
]

PRUNED_KEY = -(2**31)


LOWEST_KEY = PRUNED_KEY + 1  # no score has a key below this


HIGHEST_KEY = 2**31 - 2  # nor above this


NAN_KEY = 2**31 - 1


def to_keys(scores: Tensor, absolute: bool, kept: Tensor) -> Tensor:
    """Returns the int32 keys of float32 scores, or of their absolute values; `kept` is their boolean mask."""
    scores = scores.abs() if absolute else scores + 0.0  # -0.0 + 0.0 is +0.0
    bits = scores.view(torch.int32)
    keys = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return keys.masked_fill_(scores.isnan(), NAN_KEY).masked_fill_(~kept, PRUNED_KEY)


CHUNK = {"cpu": 1 << 19}  # weights: few calls, and temporaries stay near the core


CHUNK_ACCELERATOR = 1 << 24


@dataclass(frozen=True)
class Scorer:
    """The scores of a shard, lowest pruned first.

    Attributes:
        values: gives the float32 values of a part of the shard; the same ones whatever the part.
        absolute: scores are the absolute values of those, which the pass takes on its way.
    """

    values: Callable[[slice], Tensor]
    absolute: bool = False


class Scan(NamedTuple):
    """What a scan found.

    Attributes:
        num_below: number of keys below the range.
        num_nan: number of NaN scores.
        inside: the keys in the range, in order.
        places: where in the shard each of them is.
        kept: the packed mask that prunes all below the range, and nothing else.
    """

    num_below: int
    num_nan: int
    inside: Tensor
    places: Tensor
    kept: Tensor


def scan(scorer: Scorer, numel: int, kept: Tensor, low: int, high: int) -> Scan:
    """Counts and prunes the keys of a shard below `low`, and copies those in `[low, high]`."""
    num_below = num_nan = 0
    new_kept = torch.empty_like(kept)
    inside = [kept.new_empty(0, dtype=torch.int32)]
    places = [kept.new_empty(0, dtype=torch.int64)]
    for part in parts(numel, kept.device):
        values = scorer.values(part).contiguous()
        kernel = kernel_for(values)
        scan_chunk = scan_eager if kernel is None else kernel.scan
        packed = slice(part.start // 8, num_bytes(part.stop))
        below, nan, keys, at = scan_chunk(values, scorer.absolute, kept[packed], low, high, new_kept[packed])
        num_below += below
        num_nan += nan
        inside.append(keys)
        places.append(at.add_(part.start))
    return Scan(num_below, num_nan, torch.cat(inside), torch.cat(places), new_kept)


def scan_eager(
    scores: Tensor, absolute: bool, kept: Tensor, low: int, high: int, new_kept: Tensor
) -> tuple[int, int, Tensor, Tensor]:
    """One chunk of `scan`: writes `new_kept`; returns both counts, and the keys inside with their places."""
    keys = to_keys(scores, absolute, unpack(kept, scores.numel()))
    keep = keys >= low
    new_kept.copy_(pack(keep))
    num_below = keep.numel() - int(torch.count_nonzero(keep))
    num_nan = int(torch.count_nonzero(keys == NAN_KEY))
    places = (keep & (keys <= high)).nonzero().view(-1)
    return num_below, num_nan, keys[places], places


def settle(found: Scan, threshold: int, quota: int) -> Tensor:
    """Returns the new packed mask: pruned are keys below the threshold and the first `quota` equal to it.

    Args:
        found: a scan whose range holds the threshold; its mask is changed in place.
        threshold: a key.
        quota: at most the number of keys equal to it.
    """
    pruned = found.inside < threshold
    ties = (found.inside == threshold).nonzero().view(-1)[:quota]
    assert ties.numel() == quota, f"{quota - ties.numel()} ties are missing"
    pruned[ties] = True
    prune_(found.kept, found.places[pruned])
    return found.kept


def parts(numel: int, device: torch.device) -> Iterator[slice]:
    """Cuts a shard into parts to be worked on one by one; all start at a byte of the mask."""
    step = CHUNK.get(device.type, CHUNK_ACCELERATOR)
    for start in range(0, numel, step):
        yield slice(start, min(start + step, numel))
