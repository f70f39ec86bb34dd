"""Where ZeRO keeps a prunable tensor: the one module that reads DeepSpeed's private layout.

Every ZeRO stage cuts the fp32 master weights, the optimizer state and the gradients the same way, and each
stage has its own book-keeping of the cut. Here the four ways become one: for the i-th prunable tensor,
`shards[i]` says which slice of it this rank owns, and `weight(i)`, `states(i)`, `gradient(i)` and
`working_copy(i)` are 1-D views of exactly that slice. Views are looked up on every call and never kept,
since DeepSpeed may replace its buffers (on loading a checkpoint, on offloading states).

    tensor    |------------------- flattened, numel weights -------------------|
    ranks     |----- rank 0 -----|------- rank 1 -------|------- rank 2 -------|
                                  ^ shard.start, shard.numel: what rank 1 views

Read from deepspeed 0.19.8: runtime/zero/stage_1_and_2.py, runtime/zero/stage3.py, runtime/fp16, and
utils/tensor_fragment.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any

import torch
from deepspeed import DeepSpeedEngine
from torch import Tensor
from torch.distributed import ProcessGroup

from dsprune.model.shard import PrunableTensor, Shard

__all__ = ["PARAMETER_ORDER", "ZeroLayout"]

ZeroParameter = Any
"""A `torch.nn.Parameter`, on which DeepSpeed hangs attributes of its own."""


PARAMETER_ORDER = "dsprune_parameter_order"
"""Key of a checkpoint's client state: names of the parameters in the optimizer's order."""


class ZeroLayout(ABC):
    """This rank's slices of the prunable tensors, as views on DeepSpeed's buffers.

    Attributes:
        shards: one shard a tensor, in the order of `tensors`; `numel` 0 where this rank owns nothing.
        group: the process group whose ranks' shards together make each tensor once, or None where every
            rank holds a replica of everything (stage 0).
        device: where the accelerator is, and the collectives are.
        base_optimizer: the torch optimizer that DeepSpeed steps on the fp32 master weights.
    """

    def __init__(self, engine: DeepSpeedEngine, tensors: Sequence[PrunableTensor]) -> None:
        parameters = dict(engine.module.named_parameters())
        self.parameters: list[ZeroParameter] = [parameters[tensor.name] for tensor in tensors]
        self.base_optimizer: torch.optim.Optimizer = engine.basic_optimizer
        self.group: ProcessGroup | None = None
        self.device: torch.device = engine.device
        self.shards = [
            Shard(tensor, *self._owned(parameter, tensor.numel))
            for tensor, parameter in zip(tensors, self.parameters, strict=True)
        ]

    @abstractmethod
    def _owned(self, parameter: ZeroParameter, numel: int) -> tuple[int, int]:
        """Start and length of this rank's slice of the flattened parameter."""

    @abstractmethod
    def _master(self, parameter: ZeroParameter) -> tuple[Tensor, int]:
        """The optimizer's parameter that holds this rank's slice, and the slice's offset in it, flattened."""

    @abstractmethod
    def _gradient(self, parameter: ZeroParameter, shard: Shard) -> Tensor | None:
        """The reduced gradient of this rank's slice, after `backward`; None when there is none."""

    def weight(self, index: int) -> Tensor:
        """The fp32 master weights of a shard, shape `[shard.numel]`."""
        return self._view(index, None)

    def states(self, index: int) -> dict[str, Tensor]:
        """The optimizer's moments of a shard by name, each `[shard.numel]`; empty before the first step."""
        if self.shards[index].numel == 0:
            return {}
        master, _ = self._master(self.parameters[index])
        return {
            name: self._view(index, state)
            for name, state in self.base_optimizer.state.get(master, {}).items()
            if isinstance(state, Tensor) and state.numel() == master.numel() and state.dim() > 0
        }

    def gradient(self, index: int) -> Tensor | None:
        """The reduced gradient of a shard, `[shard.numel]`, in the dtype of DeepSpeed's accumulation.

        Valid at a gradient accumulation boundary, after `backward` and before `step`. None for an empty
        shard and for a parameter that took no part in the loss.
        """
        shard = self.shards[index]
        if shard.numel == 0:
            return None
        gradient = self._gradient(self.parameters[index], shard)
        assert gradient is None or gradient.numel() == shard.numel, (shard, gradient.shape)
        return gradient

    def working_copy(self, index: int) -> Tensor:
        """This rank's slice of the weights that the forward pass reads, in their dtype, `[shard.numel]`."""
        shard = self.shards[index]
        return self.parameters[index].detach().view(-1)[shard.start : shard.start + shard.numel]

    def make_states(self, index: int, names: Iterable[str]) -> MutableMapping[str, Any]:
        """The optimizer's state of the flat tensor that a shard is part of, with moments of zeros where missing."""
        master, _ = self._master(self.parameters[index])
        state = self.base_optimizer.state[master]
        for name in names:
            state.setdefault(name, torch.zeros_like(master, requires_grad=False))
        return state

    def refresh_copies(self) -> None:
        """Round the master weights to the working copies of every rank. Collective: every rank must call this."""
        for index in range(len(self.shards)):
            self.working_copy(index).copy_(self.weight(index))

    def misplaced(self) -> str | None:
        """Name of a tensor whose working copy is not its master weight, rounded; None if there is none."""
        for index, shard in enumerate(self.shards):
            copy = self.working_copy(index)
            if not torch.equal(self.weight(index).to(copy), copy):
                return shard.tensor.name
        return None

    def client_state(self) -> dict[str, Any]:
        """What a checkpoint must say beside DeepSpeed's own words, for its slices to be found again."""
        return {}

    @property
    def master_device(self) -> torch.device:
        """Where the master weights are: the accelerator, or the CPU under offload."""
        owned = (index for index, shard in enumerate(self.shards) if shard.numel)
        return next((self.weight(index).device for index in owned), self.device)

    def gradients_changed(self) -> None:
        """Tell DeepSpeed that gradients were edited, where it has already taken their norms in `backward`."""
        return

    def _view(self, index: int, flat: Tensor | None) -> Tensor:
        """A shard's slice of `flat`, a buffer laid out like the master weights (None: the weights)."""
        shard = self.shards[index]
        if shard.numel == 0:
            return torch.empty(0, device=self.device)
        master, offset = self._master(self.parameters[index])
        flat = master if flat is None else flat
        return flat.detach().view(-1)[offset : offset + shard.numel]
