"""Operations of a model's forward pass, in total and by weight."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Flops", "forward_flops", "stretched"]


@dataclass(frozen=True)
class Flops:
    """Operations of one forward pass; a multiplication and an addition count as two.

    Attributes:
        total: of the complete model.
        by_weight: of the products with each parameter, by its name. The rest of the total are the products of
            queries with keys and of attention with values, which involve no weight.
    """

    total: int
    by_weight: Mapping[str, int]


def forward_flops(model: nn.Module, inputs: Mapping[str, Tensor]) -> Flops:
    """Count the operations of a forward pass as `torch.utils.flop_counter` does: matrix products only.

    Args:
        model: runs once; its parameters and `inputs` are on the same device, which may be meta.
        inputs: keyword arguments of `forward`.
    """
    counter = FlopCounterMode(display=False)
    # The counter supports fused attention on some devices only; this kernel uses matrix products on all.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(**inputs)
    counts = {path: sum(ops.values()) for path, ops in counter.get_flop_counts().items()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    by_weight: dict[str, int] = {}
    for path, module in model.named_modules():
        weight = getattr(module, "weight", None)
        found = counts.get(f"{type(model).__name__}.{path}", 0)
        if found and id(weight) in names:
            by_weight[names[id(weight)]] = by_weight.get(names[id(weight)], 0) + found
    return Flops(counter.get_total_flops(), by_weight)


def stretched(batch: Mapping[str, Tensor], length: int) -> dict[str, Tensor]:
    """Return the batch at another sequence length: truncated, or extended by repeating the last token."""
    now = batch["input_ids"].shape[-1]
    places = torch.arange(length).clamp(max=now - 1)
    return {
        name: tensor[..., places.to(tensor.device)]
        if tensor.dim() > 1 and tensor.shape[-1] == now
        else tensor
        for name, tensor in batch.items()
    }
