"""The scores of a rank on an accelerator, if they are products: each pass is one launch over all shards.

Only samples and counts come to the CPU, and the few keys in the bins with the thresholds. A second pass over the scores
finds these keys. It takes less time than to copy all keys in the brackets and to count them on the CPU.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dsprune.kernels.accelerator import Segments, is_accelerated, prune_
from dsprune.kernels.product import Product
from dsprune.model.shard import Shard
from dsprune.selection.grouped import GroupedKeys, GroupedTensors
from dsprune.selection.groups import Group
from dsprune.selection.local import Bracket, Counts, sampled_parts
from dsprune.selection.scan import Scorer
from dsprune.selection.search import BINS, Search

__all__ = ["DeviceScores", "products_on_device"]


class DeviceScores:
    """See `LocalScores`.

    Args:
        shards: as for `dsprune.selection.select`.
        products: their scores, see `products_on_device`.
        absolute: whether to rank the absolute values of the scores.
        kept: as for `dsprune.selection.select`.
        groups: as for `dsprune.selection.select`.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        products: Sequence[Product],
        absolute: bool,
        kept: Sequence[Tensor],
        groups: Sequence[Group],
    ) -> None:
        self._tensors = GroupedTensors(groups)
        ordered = self._tensors.ordered
        self._segments = Segments(ordered(products), absolute, ordered(kept))
        parts = sampled_parts(shards, groups)
        self._sampled = GroupedKeys(self._tensors, *self._segments.sample(ordered(parts)))

    def sample(self, search: Search) -> Tensor:
        """See `LocalScores`."""
        return self._sampled.histograms(search)

    def scan(self, brackets: Sequence[Bracket]) -> Counts:
        """See `LocalScores`."""
        none = torch.zeros(len(brackets), dtype=torch.int64)
        self._scanned = Search.start(brackets, none, none, none)
        self._high = torch.tensor([high for _, high in brackets])
        groups = self._tensors.groups
        low, high, bin_bits = self._scanned.low[groups], self._high[groups], self._scanned.bin_bits()[groups]
        counts = self._segments.count(low, high, bin_bits, BINS)
        num_kept, num_nan, self._bins = counts[:, 0], counts[:, 1], counts[:, 2:]
        histograms = self._tensors.totals(self._bins)
        num_below = self._tensors.totals(self._segments.numels - num_kept)
        nans = torch.tensor(self._tensors.restored(num_nan.tolist()))
        return Counts(nans, num_below, histograms.sum(1), histograms)

    def collect(self, search: Search) -> None:
        """See `LocalScores`: it prunes the keys below the ranges, and copies those inside."""
        groups = self._tensors.groups
        bins = (search.low - self._scanned.low) >> self._scanned.bin_bits()
        sizes = self._bins.gather(1, bins[groups].unsqueeze(1)).squeeze(1)
        high = self._high.minimum(search.low + (1 << search.bits) - 1)
        keys, self._places, self._new = self._segments.copy(search.low[groups], high[groups], sizes)
        self._inside = GroupedKeys(self._tensors, keys, sizes)

    def inside(self, search: Search) -> Tensor:
        """See `LocalScores`."""
        return self._inside.histograms(search)

    def num_ties(self, thresholds: Sequence[int]) -> list[int]:
        """See `LocalScores`."""
        return self._inside.num_ties(thresholds)

    def settle(self, thresholds: Sequence[int], shares: Sequence[int]) -> list[Tensor]:
        """See `LocalScores`."""
        pruned = self._inside.pruned(thresholds, shares)
        prune_(self._new, self._inside.owners(pruned), self._places[pruned])
        return self._tensors.restored(self._new)


def products_on_device(shards: Sequence[Shard], scorers: Sequence[Scorer]) -> list[Product] | None:
    """Return the scores as products on one accelerator; None if they are not.

    A method may know nothing of an empty shard, such as its moments: it gets an empty part of another shard.
    """
    owned = [scorer.product for shard, scorer in zip(shards, scorers, strict=True) if shard.numel]
    products = [product for product in owned if product is not None]
    kinds = {tuple(given.dtype for given in product.tensors) for product in products}
    given = [tensor for product in products for tensor in product.tensors]
    if len(products) < len(owned) or len(kinds) != 1 or not is_accelerated(*given):
        return None
    rest = iter(products)
    return [next(rest) if shard.numel else products[0][:0] for shard in shards]
