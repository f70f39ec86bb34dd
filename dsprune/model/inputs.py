"""The squares of the inputs of a model's matrices, summed over the forward passes of training."""

from collections.abc import Sequence
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from dsprune.model.compiled import plain_module
from dsprune.model.shard import PrunableTensor

__all__ = ["InputHooks", "is_seen"]


def is_seen(module: nn.Module, weight: Tensor) -> bool:
    """Return whether a weight multiplies only the input of this module.

    `nn.MultiheadAttention` does not call its output module. Each group of a grouped matrix (DeepSeek-V4) multiplies
    another part of the input.
    """
    if getattr(module, "weight", None) is not weight or isinstance(module, NonDynamicallyQuantizableLinear):
        return False
    if isinstance(module, _ConvNd):
        return {*module.kernel_size, *module.stride, module.groups} == {1}
    return isinstance(module, nn.Linear | Conv1D) and getattr(module, "n_groups", 1) == 1


class InputHooks:
    """Sums the squares of the inputs of matrices in the forward passes of training.

    Recomputation in the backward pass and forward passes without gradients do not count. Padding does not count if the
    model is called with an `attention_mask`. It does count in an encoder-decoder model, which has two masks, and in an
    expert that receives only some of the positions.

    `torch.compile` compiles the hooks with the model, once for steps that count and once for others.

    Args:
        model: the model.
        tensors: the matrices; `is_seen` holds for their modules.
        weights: their parameters.
        device: device of the model.

    Attributes:
        is_counting: whether forward passes count now.
    """

    def __init__(
        self,
        model: nn.Module,
        tensors: Sequence[PrunableTensor],
        weights: Sequence[Tensor],
        device: torch.device | str = "cpu",
    ) -> None:
        self.is_counting = False
        self._is_inside = False
        self._mask: Tensor | None = None
        self._sums = [
            torch.zeros(tensor.num_inputs, dtype=torch.float64, device=device) for tensor in tensors
        ]
        model = plain_module(model)  # whose `forward` names its arguments
        self._names = tuple(signature(model.forward).parameters)
        config = getattr(model, "config", None)
        self._has_one_mask = not getattr(config, "is_encoder_decoder", False)
        places = {id(weight): place for place, weight in enumerate(weights)}
        for module in model.modules():
            place = places.get(id(getattr(module, "weight", None)))
            if place is not None:
                module.register_forward_pre_hook(partial(self._add, place), with_kwargs=True)
        model.register_forward_pre_hook(self._begin, with_kwargs=True)
        model.register_forward_hook(self._end, always_call=True)

    def take(self) -> Tensor:
        """Return the sums since the last call, float64: all inputs of the first tensor, then of the next."""
        taken = torch.cat(self._sums).cpu()
        torch._foreach_zero_(self._sums)
        return taken

    def begin_step(self, *, is_counting: bool) -> None:
        """Drop the sums of forward passes without a step, and set whether those of the next step count."""
        if self.is_counting:
            torch._foreach_zero_(self._sums)
        self.is_counting = is_counting

    def _begin(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        # In this order, a compiled evaluation is the same whether steps count or not.
        self._is_inside = model.training and torch.is_grad_enabled() and self.is_counting
        mask = kwargs.get("attention_mask", dict(zip(self._names, args, strict=False)).get("attention_mask"))
        self._mask = None
        if self._has_one_mask and isinstance(mask, Tensor) and mask.dim() in (2, 3):
            self._mask = mask.flatten(end_dim=-2)

    def _end(self, *_: Any) -> None:
        self._is_inside, self._mask = False, None

    @torch.no_grad()
    def _add(self, place: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._is_inside:
            return
        values: Tensor = next(iter((*args, *kwargs.values()))).detach()
        if isinstance(module, _ConvNd):
            values = values.movedim(-1 - len(module.kernel_size), -1)
        rows, mask = values.reshape(-1, values.shape[-1]), self._mask
        if mask is not None and values.shape[:-1] in (mask.shape, (mask.numel(),)):
            rows = rows * (mask.reshape(-1, 1) != 0)
        norms = torch.linalg.vector_norm(rows, dim=0, dtype=torch.float32)
        self._sums[place].add_(norms.double().square_())
