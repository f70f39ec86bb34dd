"""The scores of a rank on an accelerator, if they are products: each pass is one launch over all shards.

Only samples and counts come to the CPU. Each histogram is a pass over the scores. No key is copied, so a pass takes the
same time and memory however many keys are equal.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dsprune.kernels.accelerator import Segments, is_accelerated
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
        self._last = torch.tensor([high for _, high in brackets])
        counts = self._count(Search.start(brackets, none, none, none))
        histograms = self._tensors.totals(counts[:, 2:])
        num_below = self._tensors.totals(self._segments.numels - counts[:, 0])
        nans = torch.tensor(self._tensors.restored(counts[:, 1].tolist()))
        return Counts(nans, num_below, histograms.sum(1), histograms)

    def inside(self, search: Search) -> Tensor:
        """See `LocalScores`."""
        return self._tensors.totals(self._count(search)[:, 2:])

    def num_ties(self, thresholds: Sequence[int]) -> list[int]:
        """See `LocalScores`: the bins of the last pass are single keys."""
        bins = torch.tensor(self._tensors.ordered(thresholds)) - self._search.low[self._tensors.groups]
        self._ties = self._bins.gather(1, bins.unsqueeze(1)).squeeze(1)
        return self._tensors.restored(self._ties.tolist())

    def settle(self, thresholds: Sequence[int], shares: Sequence[int]) -> list[Tensor]:
        """See `LocalScores`."""
        low, quotas = (torch.tensor(self._tensors.ordered(values)) for values in (thresholds, shares))
        return self._tensors.restored(self._segments.settle(low, self._ties, quotas))

    def _count(self, search: Search) -> Tensor:
        """Pass over all scores: see `Segments.count`."""
        groups = self._tensors.groups
        high = self._last.minimum(search.low + (1 << search.bits) - 1)
        counts = self._segments.count(search.low[groups], high[groups], search.bin_bits()[groups], BINS)
        self._search, self._bins = search, counts[:, 2:]
        return counts


def products_on_device(shards: Sequence[Shard], scorers: Sequence[Scorer]) -> list[Product] | None:
    """Return the scores as products on one accelerator; None if they are not.

    A method may have no state for an empty shard, such as moments, so it gets an empty part of another shard.
    """
    owned = [scorer.product for shard, scorer in zip(shards, scorers, strict=True) if shard.numel]
    products = [product for product in owned if product is not None]
    kinds = {tuple(given.dtype for given in product.tensors) for product in products}
    given = [tensor for product in products for tensor in product.tensors]
    if len(products) < len(owned) or len(kinds) != 1 or not is_accelerated(*given):
        return None
    rest = iter(products)
    return [next(rest) if shard.numel else products[0][:0] for shard in shards]
