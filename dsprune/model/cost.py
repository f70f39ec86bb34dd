"""The costs of a model: memory of a rank, disk space of a checkpoint, and FLOPs of a forward pass."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dsprune.utils.dtypes import DTYPES

__all__ = ["Flops", "checkpoint_bytes", "forward_flops", "rank_memory", "stretched"]

MKLDNN_AS_SET = (
    {"allow_tf32": None} if "allow_tf32" in signature(torch.backends.mkldnn.flags).parameters else {}
)
"""None keeps the setting; torch 2.6 does not have it."""

MASTER_BYTES = 4
MOMENT_BYTES = 4
MASKED_PER_BYTE = 8


@dataclass(frozen=True)
class RankMemory:
    """Bytes that one rank holds between two steps.

    Attributes:
        weights: working weights, in the precision of the forward pass.
        gradients: their gradients, in the same precision.
        master: the optimizer's fp32 copy of the weights, if it keeps one.
        moments: the optimizer's fp32 moments, two for Adam.
        masks: one bit per prunable weight; two if the weights that grow back are marked.
        accumulators: the pruning method's accumulators up to the last mask update; a step needs twice the memory.
    """

    weights: int
    gradients: int
    master: int
    moments: int
    masks: int
    accumulators: int = 0

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(getattr(self, field.name) for field in fields(self))


def rank_memory(
    num_weights: int,
    num_prunable: int,
    stage: int,
    world_size: int,
    precision: str,
    kept_bytes: int = 0,
    input_bytes: int = 0,
    *,
    num_moments: int = 2,
    regrows: bool = False,
) -> RankMemory:
    """Return the memory of one rank under ZeRO.

    With P weights, N ranks and b bytes per working weight, each rank holds `b P` bytes of weights, `b P` of
    gradients, `4 P` of master weights, `4 P` of each moment, one bit and `kept_bytes` per prunable weight, two bits if
    weights grow back (`regrows`), and `input_bytes` of sums over inputs. Divided by N are:

    * from stage 1 on, the master weights, moments, masks and accumulators (sharded like the master weights);
    * from stage 2 on, the gradients;
    * at stage 3, the weights.

    At stage 0 in fp32 the working weights are the master weights; from stage 1 on DeepSpeed keeps a copy.

    Examples:
        >>> rank_memory(1000, 800, stage=2, world_size=4, precision="bf16")
        RankMemory(weights=2000, gradients=500, master=1000, moments=2000, masks=25, accumulators=0)
    """
    working = DTYPES[precision].itemsize * num_weights

    def share(num_bytes: int, from_stage: int) -> int:
        return -(-num_bytes // world_size) if stage >= from_stage else num_bytes

    return RankMemory(
        weights=share(working, from_stage=3),
        gradients=share(working, from_stage=2),
        master=share(_master_bytes(num_weights, stage, precision), from_stage=1),
        moments=share(MOMENT_BYTES * num_moments * num_weights, from_stage=1),
        masks=share(_mask_bytes(num_prunable, regrows), from_stage=1),
        accumulators=share(kept_bytes * num_prunable, from_stage=1) + input_bytes,
    )


def checkpoint_bytes(
    num_weights: int,
    num_prunable: int,
    stage: int,
    precision: str,
    kept_bytes: int = 0,
    input_bytes: int = 0,
    *,
    num_moments: int = 2,
    regrows: bool = False,
) -> int:
    """Return the bytes of one checkpoint on disk, summed over all ranks.

    It holds the working weights (except at stage 3, where they are restored from the master weights), the
    master weights, the moments, the masks, and up to the last mask update the accumulators of the pruning method.

    Examples:
        >>> checkpoint_bytes(1000, 800, stage=2, precision="bf16")
        14100
    """
    working = 0 if stage == 3 else DTYPES[precision].itemsize * num_weights
    state = _master_bytes(num_weights, stage, precision) + MOMENT_BYTES * num_moments * num_weights
    return working + state + _mask_bytes(num_prunable, regrows) + kept_bytes * num_prunable + input_bytes


def _master_bytes(num_weights: int, stage: int, precision: str) -> int:
    return 0 if stage == 0 and precision == "fp32" else MASTER_BYTES * num_weights


def _mask_bytes(num_prunable: int, regrows: bool) -> int:
    return -(-num_prunable // MASKED_PER_BYTE) * (2 if regrows else 1)


@dataclass(frozen=True)
class Flops:
    """Operations of one forward pass; a multiplication and an addition count as two.

    Attributes:
        total: operations of the complete model.
        by_weight: operations of the products with each parameter, by name. The rest of the total are the products of
            queries with keys and of attention with values, which involve no weight.
    """

    total: int
    by_weight: Mapping[str, int]


def forward_flops(model: nn.Module, inputs: Mapping[str, Tensor]) -> Flops:
    """Count the operations of a forward pass by the formulas of `torch.utils.flop_counter`: matrix products only.

    The model runs once. Its parameters and `inputs`, the arguments of `forward`, are on one device, which may be meta.
    """
    counter = _Counter(model)
    # A fused attention or recurrent layer would hide its products, so use versions that compute them one by one.
    with ExitStack() as plain:
        plain.enter_context(sdpa_kernel(SDPBackend.MATH))
        plain.enter_context(torch.backends.mkldnn.flags(enabled=False, **MKLDNN_AS_SET))
        plain.enter_context(torch.backends.cudnn.flags(enabled=False))
        with torch.no_grad(), counter:
            model(**inputs)
    return Flops(counter.total, counter.by_weight)


class _Counter(TorchDispatchMode):
    """Counts the operations of every product, in any module.

    A view of a parameter, such as one expert of several, shares its storage. A copy in another layout or dtype counts
    as the parameter too.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self.by_weight: dict[str, int] = {}
        self._names = {_storage(parameter): name for name, parameter in model.named_parameters()}
        self._copies: list[Tensor] = []  # kept alive, because storages are identified by their addresses

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [value for value in args if isinstance(value, Tensor)]
        weights = [tensor for tensor in tensors if _storage(tensor) in self._names]
        if formula := _formula(func.overloadpacket):
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
    """Return the operations of rows `[rows, in]`, each multiplied by one of `[experts, in, out]`."""
    return 2 * rows.shape[0] * rows.shape[1] * experts.shape[2]


GROUPED_PRODUCTS = {"aten._grouped_mm", "transformers.grouped_mm_fallback"}
"""Operators of experts; by name, because torch 2.6 has only the second, which transformers defines."""


def _formula(operator: Any) -> Callable[..., int] | None:
    """Return what counts the operations of a torch operator that multiplies matrices; None for any other."""
    return _grouped_product if str(operator) in GROUPED_PRODUCTS else flop_registry.get(operator)


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
