"""Memory of a rank and disk space of a checkpoint, computed from the number of weights."""

from dataclasses import dataclass, fields

__all__ = ["PRECISION_BYTES", "RankMemory", "checkpoint_bytes", "rank_memory"]

PRECISION_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of a working weight."""

MASTER_BYTES = 4
MOMENTS_BYTES = 8  # the two fp32 moments of Adam
MASKED_PER_BYTE = 8


@dataclass(frozen=True)
class RankMemory:
    """Bytes that one rank holds between two steps.

    Attributes:
        weights: working weights, in the precision of the forward pass.
        gradients: their gradients, in the same precision.
        master: the optimizer's fp32 copy of the weights, if it keeps one.
        moments: the optimizer's two fp32 moments.
        masks: one bit per prunable weight.
    """

    weights: int
    gradients: int
    master: int
    moments: int
    masks: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(getattr(self, field.name) for field in fields(self))


def rank_memory(
    num_weights: int, num_prunable: int, stage: int, world_size: int, precision: str
) -> RankMemory:
    """Return the memory of one rank under ZeRO.

    With P weights, N ranks and b bytes per working weight, each rank holds `b P` bytes of weights, `b P` of
    gradients, `4 P` of master weights, `8 P` of moments and one bit per prunable weight. Divided by N are

    * from stage 1 on, the master weights, moments and masks (masks are sharded as the master weights are);
    * from stage 2 on, the gradients;
    * at stage 3, the weights.

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
    """Return the bytes of one checkpoint on disk, summed over all ranks.

    It holds the working weights (except at stage 3, where they are restored from the master weights), the
    master weights, the moments and the masks.

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
