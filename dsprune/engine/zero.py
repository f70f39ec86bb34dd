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
from deepspeed.runtime.fp16.fused_optimizer import FP16_Optimizer
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import Tensor
from torch.distributed import ProcessGroup

from dsprune.errors import UserError
from dsprune.pure.shard import PrunableTensor, Shard

__all__ = ["PARAMETER_ORDER", "ZeroLayout", "open_layout"]

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


class _Replicas(ZeroLayout):
    """Stage 0: every rank holds everything, and all-reduces the gradients before the step."""

    def __init__(self, engine: DeepSpeedEngine, tensors: Sequence[PrunableTensor]) -> None:
        self._masters = dict(_replicated_masters(engine))
        self._names = {parameter: name for name, parameter in engine.module.named_parameters()}
        super().__init__(engine, tensors)

    def client_state(self) -> dict[str, Any]:
        """Stage 0 saves the optimizer's state by number: say whose they are."""
        return {PARAMETER_ORDER: [self._names[parameter] for parameter in self._masters]}

    def _owned(self, parameter: ZeroParameter, numel: int) -> tuple[int, int]:
        return 0, numel

    def _master(self, parameter: ZeroParameter) -> tuple[Tensor, int]:
        return self._masters[parameter]

    def _gradient(self, parameter: ZeroParameter, shard: Shard) -> Tensor | None:
        return None if parameter.grad is None else parameter.grad.view(-1)


def _replicated_masters(engine: DeepSpeedEngine) -> list[tuple[ZeroParameter, tuple[Tensor, int]]]:
    """Each parameter's master weight and its offset there, for the three optimizers of stage 0."""
    optimizer = engine.optimizer
    if isinstance(optimizer, FP16_UnfusedOptimizer):  # one fp32 tensor a parameter
        return [
            (parameter, (master, 0))
            for parameters, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
            for parameter, master in zip(parameters, masters, strict=True)
        ]
    if isinstance(optimizer, FP16_Optimizer):  # one flat fp32 tensor a group
        places = []
        for parameters, flat in zip(optimizer.fp16_groups, optimizer.fp32_groups_flat, strict=True):
            offset = 0
            for parameter in parameters:
                places.append((parameter, (flat, offset)))
                offset += parameter.numel()
        return places
    return [(p, (p, 0)) for group in optimizer.param_groups for p in group["params"]]


class _Partitioned(ZeroLayout):
    """Stages 1, 2 and 3: what they share is how the norms of offloaded gradients are kept."""

    def __init__(self, engine: DeepSpeedEngine, tensors: Sequence[PrunableTensor]) -> None:
        self.optimizer = engine.optimizer
        self._group = engine.data_parallel_group
        self._rank = torch.distributed.get_rank(self._group)
        self._offloaded = engine.zero_cpu_offload()
        super().__init__(engine, tensors)
        self.group = self._group

    def gradients_changed(self) -> None:
        """See the base class: with CPU offload, the norm of each gradient was stored during `backward`."""
        if not self._offloaded:
            return
        norms = self.optimizer.norm_for_param_grads
        for index, parameter in enumerate(self.parameters):
            key = self.optimizer.get_param_id(parameter)
            gradient = self.gradient(index)
            if gradient is not None and key in norms:
                norms[key] = gradient.double().norm(2)


class _Stage12(_Partitioned):
    """Stages 1 and 2: parameters laid end to end, the line cut into equal parts, wherever the cut falls."""

    def _owned(self, parameter: ZeroParameter, numel: int) -> tuple[int, int]:
        if parameter._hp_mapping is None:
            return 0, 0
        address = parameter._hp_mapping.lp_fragment_address
        return address.start, address.numel

    def _master(self, parameter: ZeroParameter) -> tuple[Tensor, int]:
        mapping = parameter._hp_mapping
        flat = self.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
        return flat, mapping.hp_fragment_address.start

    def _gradient(self, parameter: ZeroParameter, shard: Shard) -> Tensor | None:
        try:
            gradient = parameter._hp_mapping.get_lp_grad_fragment(parameter._index_in_param_group)
        except ValueError:  # no backward pass since the last step
            return None
        return gradient.view(-1)

    def refresh_copies(self) -> None:
        """See the base class: each rank rounds its partition, and all gather them."""
        self.optimizer.update_lp_params()


class _Stage3(_Partitioned):
    """Stage 3: every parameter is cut into equal parts, the last of them padded."""

    def _owned(self, parameter: ZeroParameter, numel: int) -> tuple[int, int]:
        part = parameter.partition_numel()
        start = min(self._rank * part, numel)
        return start, min(start + part, numel) - start

    def _master(self, parameter: ZeroParameter) -> tuple[Tensor, int]:
        sub_group, offset, _ = self.optimizer.grad_position[self.optimizer.get_param_id(parameter)]
        return self.optimizer.fp32_partitioned_groups_flat[sub_group], offset

    def _gradient(self, parameter: ZeroParameter, shard: Shard) -> Tensor | None:
        partition, _ = self.optimizer._get_fp32_grad_state_partition(parameter, release_swap_buffers=False)
        return partition.view(-1)[: shard.numel]

    def working_copy(self, index: int) -> Tensor:
        """See the base class: between steps, stage 3 keeps only this rank's part of the working weights."""
        return self.parameters[index].ds_tensor.detach().view(-1)[: self.shards[index].numel]

    def refresh_copies(self) -> None:
        """See the base class: of some parameters each rank keeps the whole, too."""
        self.optimizer.checkpoint_event_prologue()
        super().refresh_copies()
        self.optimizer.checkpoint_event_epilogue()


def open_layout(engine: DeepSpeedEngine, tensors: Sequence[PrunableTensor]) -> ZeroLayout:
    """Find where `engine` keeps each of `tensors`.

    Args:
        engine: an initialised engine that `dsprune.engine.support` has accepted.
        tensors: what to prune; their order becomes the global order of ties.

    Raises:
        UserError: the weights are not found where the layout says that they are.
    """
    layout = _layout_class(engine)(engine, tensors)
    if (name := layout.misplaced()) is not None:
        raise UserError(
            f"ds_config: the master weights of {name} are not where DeepSpeed says, under a setting that dsprune "
            f"does not know: start from one of ds_configs/"
        )
    return layout


def _layout_class(engine: DeepSpeedEngine) -> type[ZeroLayout]:
    if isinstance(engine.optimizer, DeepSpeedZeroOptimizer_Stage3):
        return _Stage3
    if isinstance(engine.optimizer, DeepSpeedZeroOptimizer):
        return _Stage12
    return _Replicas
