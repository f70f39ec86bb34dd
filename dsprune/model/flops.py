"""Operations of a model's forward pass, in total and by weight."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

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
    """Count the operations of a forward pass by the formulas of `torch.utils.flop_counter`: matrix products only.

    Args:
        model: runs once; its parameters and `inputs` are on the same device, which may be meta.
        inputs: keyword arguments of `forward`.
    """
    counter = _Counter(model)
    # A fused attention would hide its products; this kernel computes them one by one on all devices.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(**inputs)
    return Flops(counter.total, counter.by_weight)


class _Counter(TorchDispatchMode):
    """Counts the operations of every product, whichever module computes it.

    A view of a parameter, such as one expert of several, shares its storage. A copy in another layout or number format
    counts as the parameter too.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self.by_weight: dict[str, int] = {}
        self._names = {_storage(parameter): name for name, parameter in model.named_parameters()}
        self._copies: list[Tensor] = []  # kept, because storages are told apart by their addresses

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [value for value in args if isinstance(value, Tensor)]
        weights = [tensor for tensor in tensors if _storage(tensor) in self._names]
        if formula := FORMULAS.get(func.overloadpacket):
            flops = formula(*args, **(kwargs or {}), out_val=out)
            self.total += flops
            if weights:  # a bias has fewer dimensions, and relative embeddings are the first factor
                name = self._names[_storage(max(reversed(weights), key=Tensor.dim))]
                self.by_weight[name] = self.by_weight.get(name, 0) + flops
        elif weights and len(tensors) == 1 and isinstance(out, Tensor) and out.numel() == weights[0].numel():
            self._names[_storage(out)] = self._names[_storage(weights[0])]
            self._copies.append(out)
        return out


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _grouped_product(rows: Tensor, experts: Tensor, *_: Any, **__: Any) -> int:
    """Return the operations of rows `[rows, in]` that each pass through one of `[experts, in, out]`."""
    return 2 * rows.shape[0] * rows.shape[1] * experts.shape[2]


FORMULAS: dict[Any, Callable[..., int]] = {**flop_registry, torch.ops.aten._grouped_mm: _grouped_product}
"""Operations of each operator of torch that multiplies matrices."""


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
