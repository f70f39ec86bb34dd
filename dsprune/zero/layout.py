"""This rank's slices of the prunable tensors, as views on DeepSpeed's private buffers.

Every ZeRO stage partitions the fp32 master weights, the optimizer state and the gradients the same way, but each
stage records the partition differently. `ZeroLayout` is one interface to all stages: for the i-th prunable tensor,
`shards[i]` is the slice of it that this rank owns, and `weight(i)`, `states(i)`, `gradient(i)` and
`working_copy(i)` are 1-D views of exactly that slice. Views are looked up on every call and never kept,
since DeepSpeed may replace its buffers (when it loads a checkpoint or offloads states).

    tensor    |------------------- flattened, numel weights -------------------|
    ranks     |----- rank 0 -----|------- rank 1 -------|------- rank 2 -------|
                                  ^ shard.start, shard.numel: what rank 1 views
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from dsprune.model.compiled import plain_name
from dsprune.model.shard import PrunableTensor, Shard

if TYPE_CHECKING:  # DeepSpeed takes seconds to import, and an audit of a model folder does not need it
    from deepspeed import DeepSpeedEngine

__all__ = ["PARAMETER_ORDER", "ZeroLayout", "full_numel"]

ZeroParameter = Any
"""A `torch.nn.Parameter` with attributes that DeepSpeed adds."""

PARAMETER_ORDER = "dsprune_parameter_order"
"""Key in a checkpoint's client state: names of the parameters in the optimizer's order."""


class ZeroLayout(ABC):
    """This rank's slices of the prunable tensors, as views on DeepSpeed's buffers.

    Args:
        engine: an initialized engine.
        tensors: the prunable tensors.

    Attributes:
        module: the model.
        parameters: the parameter of each tensor.
        tensors: the prunable tensors, in the global order.
        shards: one shard per tensor; `numel` is 0 if this rank owns nothing.
        group: the process group whose ranks' shards form each tensor once; None if every rank holds a replica
            (stage 0).
        device: this rank's accelerator, on which collectives run.
        base_optimizer: the torch optimizer that DeepSpeed steps on the fp32 master weights.
    """

    def __init__(self, engine: "DeepSpeedEngine", tensors: Sequence[PrunableTensor]) -> None:
        self.module: nn.Module = engine.module
        named = self._named_parameters()
        self._at_start = {one: full_numel(one) for one in named.values() if one.requires_grad}
        self.parameters: list[ZeroParameter] = [named[tensor.name] for tensor in tensors]
        self.base_optimizer: torch.optim.Optimizer = engine.basic_optimizer
        # Stage 0 in fp32 trains frozen parameters of its optimizer once they are unfrozen.
        groups = self.base_optimizer.param_groups
        self._at_start |= {one: full_numel(one) for group in groups for one in group["params"]}
        self._optimizer = engine.optimizer
        self.group: ProcessGroup | None = None
        self.device: torch.device = engine.device
        self.tensors = tuple(tensors)
        self.shards = [
            Shard(tensor, *self._owned(parameter, tensor.numel))
            for tensor, parameter in zip(tensors, self.parameters, strict=True)
        ]

    @property
    def master_device(self) -> torch.device:
        """Device of the master weights: the accelerator, or the CPU under offload."""
        owned = (index for index, shard in enumerate(self.shards) if shard.numel)
        return next((self.weight(index).device for index in owned), self.device)

    @property
    def loss_scale(self) -> float:
        """Factor on the gradients between `backward` and `step`: 1.0 except in fp16."""
        return float(getattr(self._optimizer, "loss_scale", None) or 1.0)  # torch's optimizers have none

    @property
    def is_offloaded(self) -> bool:
        """Whether `engine.offload_states` has moved weights or moments away, which stage 0 cannot."""
        return bool(getattr(self._optimizer, "offloaded_states", ()))

    def weight(self, index: int) -> Tensor:
        """Return the fp32 master weights of a shard, shape `[shard.numel]`."""
        return self._view(index, None)

    def weights(self) -> list[Tensor]:
        """Return the fp32 master weights of all shards."""
        return [self.weight(index) for index in range(len(self.shards))]

    def states(self, index: int) -> dict[str, Tensor]:
        """Return the optimizer's moments of a shard by name, each `[shard.numel]`; empty before the first step."""
        if self.shards[index].numel == 0:
            return {}
        master, _ = self._master(self.parameters[index])
        return {
            name: self._view(index, state)
            for name, state in self.base_optimizer.state.get(master, {}).items()
            if isinstance(state, Tensor) and state.numel() == master.numel() and state.dim() > 0
        }

    def gradient(self, index: int) -> Tensor | None:
        """Return the reduced gradient of a shard, `[shard.numel]`, in the dtype of DeepSpeed's accumulation.

        It is valid at a gradient accumulation boundary, after `backward` and before `step`. None for an empty shard,
        and for a parameter on which the loss does not depend.
        """
        shard = self.shards[index]
        if shard.numel == 0:
            return None
        gradient = self._gradient(self.parameters[index], shard)
        assert gradient is None or gradient.numel() == shard.numel, (shard, gradient.shape)
        return gradient

    def refresh_gradient_norms(self) -> None:
        """Update the norms of edited gradients if DeepSpeed has computed them in `backward`."""
        return

    def working_copy(self, index: int) -> Tensor:
        """Return this rank's slice of the weights that the forward pass reads, in their dtype, `[shard.numel]`."""
        shard = self.shards[index]
        values: Tensor = self.parameters[index].detach().view(-1)[shard.start : shard.start + shard.numel]
        return values

    def make_states(self, index: int, names: Iterable[str]) -> MutableMapping[str, Any]:
        """Return the optimizer's state of the tensor with a shard; missing moments are created as zeros."""
        master, _ = self._master(self.parameters[index])
        state: MutableMapping[str, Any] = self.base_optimizer.state[master]
        for name in names:
            state.setdefault(name, torch.zeros_like(master, requires_grad=False))
        return state

    def refresh_copies(self) -> None:
        """Round the master weights to the working copies of every rank. Collective: every rank must call this."""
        for index in range(len(self.shards)):
            self.working_copy(index).copy_(self.weight(index))

    def find_replaced(self) -> str | None:
        """Return the name of a tensor whose parameter was replaced, resized or unfrozen; None if there is none."""
        named = self._named_parameters()
        for shard, parameter in zip(self.shards, self.parameters, strict=True):
            if named.get(shard.tensor.name) is not parameter:
                return shard.tensor.name
        trained = ((name, one) for name, one in named.items() if one.requires_grad)
        return next((name for name, one in trained if self._at_start.get(one) != full_numel(one)), None)

    def _named_parameters(self) -> dict[str, ZeroParameter]:
        return {plain_name(name): parameter for name, parameter in self.module.named_parameters()}

    def find_misplaced(self) -> str | None:
        """Return the name of a tensor whose working copy is not its rounded master weight; None if all agree."""
        for index, shard in enumerate(self.shards):
            if not self.is_rounded(index):
                return shard.tensor.name
        return None

    def is_rounded(self, index: int) -> Tensor:
        """Return whether the working copy of a shard is its rounded master weight, NaN excepted; 0-dim."""
        master = self.weight(index)
        pairs = ((master.to(copy), copy) for copy in self.copies(index))
        return torch.stack([((rounded == copy) | rounded.isnan()).all() for rounded, copy in pairs]).all()

    def copies(self, index: int) -> list[Tensor]:
        """Return all copies of the working weights of a shard on this rank, each `[shard.numel]`."""
        return [self.working_copy(index)]

    def version(self, index: int) -> tuple[int, ...]:
        """Return a counter that changes when other code (`load_state_dict`) writes to a shard's working weights.

        DeepSpeed itself writes to the flat buffers; at stage 0 in fp32, the optimizer writes to the weights.
        """
        return (self.parameters[index]._version,)

    def client_state(self) -> dict[str, Any]:
        """Return the entries that a checkpoint needs in addition to DeepSpeed's, to find its slices again."""
        return {}

    @abstractmethod
    def _owned(self, parameter: ZeroParameter, numel: int) -> tuple[int, int]:
        """Return start and length of this rank's slice of the flattened parameter."""

    @abstractmethod
    def _master(self, parameter: ZeroParameter) -> tuple[Tensor, int]:
        """Return the optimizer's tensor with this rank's slice, and the slice's offset in the flattened tensor."""

    @abstractmethod
    def _gradient(self, parameter: ZeroParameter, shard: Shard) -> Tensor | None:
        """Return the reduced gradient of this rank's slice, after `backward`; None when there is none."""

    def _view(self, index: int, flat: Tensor | None) -> Tensor:
        """Return a shard's slice of `flat`, a buffer laid out like the master weights (None: the weights)."""
        shard = self.shards[index]
        if shard.numel == 0:
            return torch.empty(0, device=self.device)
        master, offset = self._master(self.parameters[index])
        flat = master if flat is None else flat
        return flat.detach().view(-1)[offset : offset + shard.numel]


def full_numel(parameter: Tensor) -> int:
    """Return the number of weights of a parameter, which stage 3 may have partitioned."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))
