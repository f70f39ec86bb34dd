"""The pass over all scores of a shard, in chunks: count, prune and copy keys relative to a range.

Keys are integers in the order in which weights are pruned. The bits of a float, read as an integer, are monotone once
negative numbers are reflected. Selection therefore counts and compares integers, and is exact. Three kinds of weights
have special keys:

    a pruned weight    PRUNED_KEY   below all other keys, so it stays pruned
    a score of -0.0    0            the key of +0.0, so equal scores have equal keys
    a score of NaN     NAN_KEY      above all other keys; counted, and an error
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dsprune.errors import UserError
from dsprune.kernels.cpu import kernel_for
from dsprune.kernels.product import Product
from dsprune.masks.bits import num_bytes, pack, pick, prune_, unpack, unpack_part
from dsprune.model.shard import Shard

__all__ = [
    "HIGHEST_KEY",
    "LOWEST_KEY",
    "NAN_KEY",
    "PRUNED_KEY",
    "Scan",
    "Scorer",
    "from_keys",
    "keys_of",
    "parts",
    "refuse_nan",
    "sample",
    "sample_eager",
    "scan",
    "scan_eager",
    "settle",
    "settle_eager",
    "to_keys",
]

PRUNED_KEY = -(2**31)
LOWEST_KEY = PRUNED_KEY + 1  # no score has a lower key
HIGHEST_KEY = 2**31 - 2  # no score has a higher key
NAN_KEY = 2**31 - 1


def to_keys(scores: Tensor, absolute: bool, kept: Tensor) -> Tensor:
    """Return the int32 keys of float32 scores, or of their absolute values, given which weights are kept."""
    scores = scores.abs() if absolute else scores + 0.0  # -0.0 + 0.0 is +0.0
    bits = scores.view(torch.int32)
    keys = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return keys.masked_fill_(scores.isnan(), NAN_KEY).masked_fill_(~kept, PRUNED_KEY)


def from_keys(keys: Tensor) -> Tensor:
    """Return the float32 scores of keys; NaN for those of pruned weights and of NaN."""
    return (keys ^ ((keys >> 31) & 0x7FFFFFFF)).view(torch.float32)


def keys_of(scorer: "Scorer", kept: Tensor) -> Callable[[int, int], Tensor]:
    """Return a function (first, last) -> the keys of the weights `[first, last)` of a shard with a packed mask."""

    def keys(first: int, last: int) -> Tensor:
        return to_keys(scorer.values(slice(first, last)), scorer.absolute, unpack_part(kept, first, last))

    return keys


def refuse_nan(shards: Sequence[Shard], counts: Sequence[int]) -> None:
    """Refuse NaN scores, given their number in each tensor over all ranks.

    Raises:
        UserError: there are some.
    """
    for shard, count in zip(shards, counts, strict=True):
        if count:
            raise UserError(
                f"{shard.tensor.name}: {count} of its scores are NaN and cannot be ranked: "
                "resume from an earlier checkpoint with a lower learning rate"
            )


CHUNK = 1 << 19  # weights at a time: few calls, and temporaries stay in the cache
CHUNK_WITHOUT_TEMPORARIES = 1 << 21
CHUNK_ACCELERATOR = 1 << 24


@dataclass(frozen=True)
class Scorer:
    """The scores of a shard; the lowest are pruned first.

    Attributes:
        values: returns the float32 values of a part of the shard, which do not depend on the part.
        absolute: whether the scores are the absolute values of `values`; the scan takes them on the fly.
        product: the values as a product, which kernels compute on the fly; None if they are not a product.
    """

    values: Callable[[slice], Tensor]
    absolute: bool = False
    product: Product | None = None

    def part(self, part: slice) -> Product:
        """Return a part of the values, already computed unless they are a product of float32 numbers."""
        if self.product is not None and all(given.dtype == torch.float32 for given in self.product.tensors):
            return self.product[part]
        return Product(self.values(part).contiguous())


class Scan(NamedTuple):
    """The result of a scan.

    Attributes:
        num_below: number of keys below the range.
        num_nan: number of NaN scores.
        inside: the keys in the range, in the order of the shard.
        places: their indices in the shard.
        kept: the packed mask that prunes exactly the keys below the range.
    """

    num_below: int
    num_nan: int
    inside: Tensor
    places: Tensor
    kept: Tensor


def scan(scorer: Scorer, numel: int, kept: Tensor, low: int, high: int) -> Scan:
    """Count and prune the keys of a shard below `low`, and copy the keys in `[low, high]`.

    Args:
        scorer: the scores of the shard.
        numel: number of weights in the shard.
        kept: packed mask of the shard so far, which is not changed.
        low: first key of the range.
        high: last key of the range.
    """
    new_kept = torch.empty_like(kept)
    step = CHUNK_WITHOUT_TEMPORARIES if scorer.product is not None else None
    found = [_scan_part(scorer, kept, low, high, new_kept, part) for part in parts(numel, kept.device, step)]
    if len(found) == 1:
        return Scan(*found[0], new_kept)
    below, nans, inside, places = zip(*found, strict=True) if found else ((), (), (), ())
    keys = [*inside, kept.new_empty(0, dtype=torch.int32)]
    at = [*places, kept.new_empty(0, dtype=torch.int64)]
    return Scan(sum(below), sum(nans), torch.cat(keys), torch.cat(at), new_kept)


def _scan_part(
    scorer: Scorer, kept: Tensor, low: int, high: int, new_kept: Tensor, part: slice
) -> tuple[int, int, Tensor, Tensor]:
    scores = scorer.part(part)
    kernel = kernel_for(scores.first)
    scan_chunk = scan_eager if kernel is None else kernel.scan
    packed = slice(part.start // 8, num_bytes(part.stop))
    below, nan, keys, at = scan_chunk(scores, scorer.absolute, kept[packed], low, high, new_kept[packed])
    return below, nan, keys, at.long().add_(part.start)


def scan_eager(
    scores: Product, absolute: bool, kept: Tensor, low: int, high: int, new_kept: Tensor
) -> tuple[int, int, Tensor, Tensor]:
    """Scan one chunk on any device, and write its new packed mask to `new_kept`.

    Returns:
        The number of keys below `low`, the number of NaN scores, the keys in `[low, high]`, and their places.
    """
    values = scores.values()
    keys = to_keys(values, absolute, unpack(kept, values.numel()))
    keep = keys >= low
    new_kept.copy_(pack(keep))
    num_below = keep.numel() - int(torch.count_nonzero(keep))
    num_nan = int(torch.count_nonzero(keys == NAN_KEY))
    places = (keep & (keys <= high)).nonzero().view(-1)
    return num_below, num_nan, keys[places], places


def sample(scorer: Scorer, numel: int, kept: Tensor, part: slice) -> Tensor:
    """Return the keys of every n-th weight of a shard.

    Args:
        scorer: the scores of the shard.
        numel: number of weights in the shard.
        kept: packed mask of the shard so far.
        part: first weight, end and stride; the first weight is in the shard.
    """
    whole = scorer.part(slice(None)) if scorer.product is not None else None
    kernel = None if whole is None else kernel_for(whole.first)
    if whole is None or kernel is None:
        return sample_eager(scorer, numel, kept, part)
    return kernel.sample(whole, scorer.absolute, kept, part)


def sample_eager(scorer: Scorer, numel: int, kept: Tensor, part: slice) -> Tensor:
    """Sample like `sample`, for any scores on any device."""
    return to_keys(scorer.values(part), scorer.absolute, pick(kept, part, numel))


def settle(found: Scan, threshold: int, quota: int) -> Tensor:
    """Return the new packed mask: it prunes the keys below the threshold and the first `quota` ties with it.

    The range of the scan must contain the threshold. Its mask is changed in place.
    """
    kernel = kernel_for(found.kept)
    settle_chunk = settle_eager if kernel is None else kernel.settle
    ties = settle_chunk(found.kept, found.inside, found.places, threshold, quota)
    assert ties == quota, f"{quota - ties} ties are missing"
    return found.kept


def settle_eager(kept: Tensor, keys: Tensor, places: Tensor, threshold: int, quota: int) -> int:
    """Prune the keys below the threshold and the first `quota` ties in a packed mask; return the number of ties."""
    pruned = keys < threshold
    pruned[(keys == threshold).nonzero().view(-1)[:quota]] = True
    prune_(kept, places[pruned].to(kept.device))
    return min(quota, int((keys == threshold).sum()))


def parts(numel: int, device: torch.device, step: int | None = None) -> Iterator[slice]:
    """Yield the chunks of a shard; each starts at a byte of the packed mask."""
    step = step or (CHUNK if device.type == "cpu" else CHUNK_ACCELERATOR)
    for start in range(0, numel, step):
        yield slice(start, min(start + step, numel))
