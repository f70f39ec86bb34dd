"""The selection from complete weights, in one process."""

from collections.abc import Sequence

from torch import Tensor

from dsprune.kernels.product import Product
from dsprune.masks.bits import unpack
from dsprune.masks.mask_set import MaskSet
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.ranks.collectives import Comm
from dsprune.recipe.pattern import UNSTRUCTURED, Pattern
from dsprune.selection.groups import Group
from dsprune.selection.normalize import normalize
from dsprune.selection.patterned import select_tiles
from dsprune.selection.scan import Scorer

__all__ = ["select_complete"]


def select_complete(
    tensors: Sequence[PrunableTensor],
    weights: Sequence[Tensor],
    groups: Sequence[Group],
    *,
    normalized: bool = False,
    pattern: Pattern = UNSTRUCTURED,
) -> list[Tensor]:
    """Select by magnitude from dense weights, like a mask update; return boolean masks, True = kept.

    Args:
        tensors: all prunable tensors, in the global order.
        weights: the complete weights of each tensor, all on one device.
        groups: the groups of tensors, with their numbers of zeros.
        normalized: whether to divide the scores by the root mean square of their tensor's.
        pattern: the pattern of the recipe.

    Returns:
        One mask per tensor, in the tensor's shape.
    """
    shards = [Shard(tensor, 0, tensor.numel) for tensor in tensors]
    flat = [values.detach().view(-1) for values in weights]
    scorers = [Scorer(values.__getitem__, absolute=True, product=Product(values)) for values in flat]
    device = flat[0].device
    if normalized:
        scorers = normalize(shards, scorers, device, Comm())
    masks = select_tiles(shards, scorers, MaskSet(shards, device).bits, groups, Comm(), pattern)
    return [
        unpack(bits, tensor.numel).view(tensor.shape) for tensor, bits in zip(tensors, masks, strict=True)
    ]
