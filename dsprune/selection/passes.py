"""The local passes of a selection over all of a rank's shards, by Triton on an accelerator and else one by one.

On an accelerator each pass is one launch, or a few where many keys are copied. This needs scores that are products;
other scores are computed by torch and ranked shard by shard. On a CPU compiled functions work on several shards at a
time, in threads. What a pass finds is on the CPU, where the ranks' messages are made; masks stay on their device.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor

from dsprune.kernels import accelerator
from dsprune.kernels.cpu import in_threads
from dsprune.kernels.product import Product
from dsprune.model.shard import Shard
from dsprune.selection.scan import Scan, Scorer, sample, scan, settle, settled

__all__ = ["sample_all", "scan_all", "settle_all"]

R = TypeVar("R")


def sample_all(
    shards: Sequence[Shard], scorers: Sequence[Scorer], kept: Sequence[Tensor], parts: Sequence[slice]
) -> list[Tensor]:
    """Return the keys of a part of each shard: its first weight, end and stride."""
    if (products := _products(shards, scorers)) is not None:
        return accelerator.sample(products, scorers[0].absolute, kept, parts)
    given = [
        (scorer, shard.numel, bits, part)
        for scorer, shard, bits, part in zip(scorers, shards, kept, parts, strict=True)
    ]
    return [keys.cpu() for keys in _for_each(sample, given, scorers)]


def scan_all(
    shards: Sequence[Shard],
    scorers: Sequence[Scorer],
    kept: Sequence[Tensor],
    ranges: Sequence[tuple[int, int]],
    expected: Callable[[], list[int]],
) -> list[Scan]:
    """Scan each shard with its range of keys; `expected()` tells about how many are inside each range."""
    if (products := _products(shards, scorers)) is not None:
        found = accelerator.scan(products, scorers[0].absolute, kept, ranges, expected())
        return [
            Scan(shard.numel - part.num_kept, part.num_nan, part.inside, part.places, part.kept)
            for shard, part in zip(shards, found, strict=True)
        ]
    given = [
        (scorer, shard.numel, bits, *bounds)
        for scorer, shard, bits, bounds in zip(scorers, shards, kept, ranges, strict=True)
    ]
    scans = _for_each(scan, given, scorers)
    return [one._replace(inside=one.inside.cpu(), places=one.places.cpu()) for one in scans]


def settle_all(found: Sequence[Scan], thresholds: Sequence[int], quotas: Sequence[int]) -> list[Tensor]:
    """Return the new packed masks, see `dsprune.selection.scan.settle`."""
    if not accelerator.is_accelerated(*(part.kept for part in found)):
        return [settle(*part) for part in zip(found, thresholds, quotas, strict=True)]
    pruned = [
        part.places[settled(part.inside, threshold, quota)]
        for part, threshold, quota in zip(found, thresholds, quotas, strict=True)
    ]
    accelerator.prune_([part.kept for part in found], pruned)
    return [part.kept for part in found]


def _for_each(work: Callable[..., R], given: Sequence[tuple[Any, ...]], scorers: Sequence[Scorer]) -> list[R]:
    """Do the work for each shard; where scores are products of numbers on the CPU, in several threads."""
    products = [scorer.product for scorer in scorers if scorer.product is not None]
    if len(products) < len(scorers):
        return [work(*arguments) for arguments in given]
    return in_threads(work, given, [tensor for product in products for tensor in product.tensors])


def _products(shards: Sequence[Shard], scorers: Sequence[Scorer]) -> list[Product] | None:
    """Return the scores as products on one accelerator; None if they are not.

    Of an empty shard a method may know nothing, such as a moment: it gets a part of another shard without weights.
    """
    owned = [scorer.product for shard, scorer in zip(shards, scorers, strict=True) if shard.numel]
    products = [product for product in owned if product is not None]
    kinds = {tuple(given.dtype for given in product.tensors) for product in products}
    given = [tensor for product in products for tensor in product.tensors]
    if len(products) < len(owned) or len(kinds) != 1 or not accelerator.is_accelerated(*given):
        return None
    rest = iter(products)
    return [next(rest) if shard.numel else products[0][:0] for shard in shards]
