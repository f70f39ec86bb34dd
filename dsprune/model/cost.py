"""What a model costs: memory of a rank, disk of a checkpoint, operations of a forward pass."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

__all__ = [
    "PRECISION_BYTES",
    "Flops",
    "RankMemory",
    "checkpoint_bytes",
    "forward_flops",
    "rank_memory",
    "stretched",
]

PRECISION_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of a working weight."""


MASTER_BYTES = 4


MOMENTS_BYTES = 8  # two fp32 moments, as Adam keeps


MASKED_PER_BYTE = 8


@dataclass(frozen=True)
class RankMemory:
    """Bytes that one rank holds between two steps.

    Attributes:
        weights: working weights, in the precision of the forward pass.
        gradients: their gradients, in the same precision.
        master: the optimizer's fp32 weights, where it keeps a copy.
        moments: its two fp32 moments.
        masks: one bit a prunable weight.
    """

    weights: int
    gradients: int
    master: int
    moments: int
    masks: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))


def rank_memory(
    num_weights: int, num_prunable: int, stage: int, world_size: int, precision: str
) -> RankMemory:
    """Memory of one rank under ZeRO.

    More precisely, with P weights, N ranks and b bytes a working weight, each rank holds `b P` of weights,
    `b P` of gradients, `4 P` of master weights, `8 P` of moments and one bit a prunable weight, divided by N
    from

    * stage 1 on of the master weights, moments and masks (masks are sharded as the master weights are);
    * stage 2 on of the gradients;
    * stage 3 on of the weights.

    At stage 0 in fp32 the working weights are the master weights; from stage 1 on DeepSpeed keeps a copy.

    Examples:
        >>> rank_memory(1000, 800, stage=2, world_size=4, precision="bf16")
        RankMemory(weights=2000, gradients=500, master=1000, moments=2000, masks=25)
    """
    working = PRECISION_BYTES[precision] * num_weights

    def share(num_bytes: int, from_stage: int) -> int:
        return -(-num_bytes // world_size) if stage >= from_stage else num_bytes

    return RankMemory(
        weights=share(working, from_stage=3),
        gradients=share(working, from_stage=2),
        master=share(_master_bytes(num_weights, stage, precision), from_stage=1),
        moments=share(MOMENTS_BYTES * num_weights, from_stage=1),
        masks=share(_mask_bytes(num_prunable), from_stage=1),
    )


def checkpoint_bytes(num_weights: int, num_prunable: int, stage: int, precision: str) -> int:
    """Disk of one checkpoint, all ranks together.

    It holds the working weights (but at stage 3, where the master weights stand for them), master weights,
    moments and masks.

    Examples:
        >>> checkpoint_bytes(1000, 800, stage=2, precision="bf16")
        14100
    """
    working = 0 if stage == 3 else PRECISION_BYTES[precision] * num_weights
    state = _master_bytes(num_weights, stage, precision) + MOMENTS_BYTES * num_weights
    return working + state + _mask_bytes(num_prunable)


def _master_bytes(num_weights: int, stage: int, precision: str) -> int:
    return 0 if stage == 0 and precision == "fp32" else MASTER_BYTES * num_weights


def _mask_bytes(num_prunable: int) -> int:
    return -(-num_prunable // MASKED_PER_BYTE)


@dataclass(frozen=True)
class Flops:
    """Operations of one forward pass; a multiplication and an addition count as two.

    Attributes:
        total: of the whole model.
        by_weight: by the name of a parameter, of the products with it. What is missing to the total are the
            products of queries with keys and of attention with values, which are done with no weight.
    """

    total: int
    by_weight: Mapping[str, int]


def forward_flops(model: nn.Module, inputs: Mapping[str, Tensor]) -> Flops:
    """Count the operations, as `torch.utils.flop_counter` does: matrix products and no others.

    Args:
        model: what is run, once; its parameters and `inputs` are on the same device, which may be meta.
        inputs: by the names of `forward`.
    """
    counter = FlopCounterMode(display=False)
    # The counter sees fused attention only on some devices; this kernel is matrix products everywhere.
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
    """The batch at another sequence length: its last tokens are cut, or the last one is repeated."""
    now = batch["input_ids"].shape[-1]
    places = torch.arange(length).clamp(max=now - 1)
    return {
        name: tensor[..., places.to(tensor.device)]
        if tensor.dim() > 1 and tensor.shape[-1] == now
        else tensor
        for name, tensor in batch.items()
    }
