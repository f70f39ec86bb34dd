"""Pruning some weights of a model for a while, to see what that does."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from dsprune.distributed.comm import Comm
from dsprune.distributed.masks import MaskSet
from dsprune.distributed.selection import select
from dsprune.pure.masks.bits import unpack
from dsprune.pure.selection.groups import make_groups
from dsprune.pure.selection.passes import Scorer
from dsprune.pure.shard import PrunableTensor, Shard

__all__ = ["pruned", "restored"]


@contextmanager
def pruned(
    model: nn.Module, tensors: Sequence[PrunableTensor], sparsity: float
) -> Iterator[dict[str, Tensor]]:
    """The model with the smallest weights of some tensors at zero, `round(sparsity * n)` of all of them.

    Afterwards every weight is what it was. Each rank that holds the same model does the same.

    Yields:
        The masks by name of the tensor, in its shape; True = kept.
    """
    weights = dict(model.named_parameters())
    chosen = {tensor.name: weights[tensor.name].data for tensor in tensors}
    masks = _masks(list(chosen.values()), tensors, sparsity)
    before = {name: values.clone() for name, values in chosen.items()}
    try:
        for name, mask in masks.items():
            chosen[name].masked_fill_(~mask, 0.0)
        yield masks
    finally:
        for name, values in before.items():
            chosen[name].copy_(values)


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Put all parameters and buffers back to what they are now."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        yield
    finally:
        model.load_state_dict(state)


def _masks(
    weights: Sequence[Tensor], tensors: Sequence[PrunableTensor], sparsity: float
) -> dict[str, Tensor]:
    """As selection makes them in training: by magnitude, over all tensors, ties in global order."""
    shards = [Shard(tensor, 0, tensor.numel) for tensor in tensors]
    flat = [values.view(-1) for values in weights]
    scorers = [Scorer(values.__getitem__, absolute=True) for values in flat]
    kept = MaskSet(shards, flat[0].device).bits
    groups = make_groups(tensors, [sparsity] * len(tensors), uniform=False)
    rows = select(shards, scorers, kept, groups, Comm())
    return {
        tensor.name: unpack(bits, tensor.numel).view(tensor.shape)
        for tensor, bits in zip(tensors, rows, strict=True)
    }
