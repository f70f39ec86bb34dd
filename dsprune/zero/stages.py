"""The layout of each ZeRO stage: where DeepSpeed keeps this rank's slices.

Read from deepspeed 0.19.8: runtime/zero/stage_1_and_2.py, runtime/zero/stage3.py, runtime/fp16, and
utils/tensor_fragment.py.
"""

from collections.abc import Sequence
from typing import Any

import torch
from deepspeed import DeepSpeedEngine
from deepspeed.runtime.fp16.fused_optimizer import FP16_Optimizer
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import Tensor

from dsprune.errors import UserError
from dsprune.model.compiled import plain_name
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.zero.layout import PARAMETER_ORDER, ZeroLayout, ZeroParameter

__all__ = ["open_layout", "replicated_masters"]


def open_layout(engine: DeepSpeedEngine, tensors: Sequence[PrunableTensor]) -> ZeroLayout:
    """Return the layout of `tensors` in an engine that `dsprune.zero.limits` has accepted.

    Their order is the global order, which breaks ties.

    Raises:
        UserError: the optimizer does not train a tensor, or its master weights are not in the expected place.
    """
    _check_trained(engine, tensors)
    layout = _layout_class(engine)(engine, tensors)
    if (name := layout.find_misplaced()) is not None:
        raise UserError(
            f"ds_config: the master weights of {name} are not where dsprune expects them, under a setting that it "
            f"does not know: start from one of ds_configs/"
        )
    return layout


def _check_trained(engine: DeepSpeedEngine, tensors: Sequence[PrunableTensor]) -> None:
    optimizer = engine.optimizer
    groups = getattr(optimizer, "bit16_groups", getattr(optimizer, "fp16_groups", None))
    groups = groups or [group["params"] for group in optimizer.param_groups]
    trained = {id(parameter) for group in groups for parameter in group}
    parameters = {plain_name(name): parameter for name, parameter in engine.module.named_parameters()}
    others = len(trained - {id(parameter) for parameter in parameters.values()})
    if others and engine.world_size > 1:
        raise UserError(
            f"optimizer: {others} of its parameters are not in the model, and DeepSpeed does not average their "
            f"gradients: make an engine with an optimizer for each model"
        )
    if left := [tensor.name for tensor in tensors if id(parameters[tensor.name]) not in trained]:
        raise UserError(
            f"optimizer: {left[0]} is not among its parameters ({len(left)} such weights): give them to "
            f"deepspeed.initialize, or name them in pruning.exclude"
        )


def _layout_class(engine: DeepSpeedEngine) -> type[ZeroLayout]:
    if isinstance(engine.optimizer, DeepSpeedZeroOptimizer_Stage3):
        return _Stage3
    if isinstance(engine.optimizer, DeepSpeedZeroOptimizer):
        return _Stage12
    return _Stage0


class _Stage0(ZeroLayout):
    """Stage 0: every rank holds a replica of everything, and all-reduces the gradients before the step."""

    def __init__(self, engine: DeepSpeedEngine, tensors: Sequence[PrunableTensor]) -> None:
        self._masters = dict(replicated_masters(engine))
        self._names = {parameter: name for name, parameter in engine.module.named_parameters()}
        super().__init__(engine, tensors)

    def client_state(self) -> dict[str, Any]:
        """Return the names of the parameters, since stage 0 saves the optimizer's state by number."""
        return {PARAMETER_ORDER: [self._names[parameter] for parameter in self._masters]}

    def _owned(self, parameter: ZeroParameter, numel: int) -> tuple[int, int]:
        return 0, numel

    def _master(self, parameter: ZeroParameter) -> tuple[Tensor, int]:
        return self._masters[parameter]

    def _gradient(self, parameter: ZeroParameter, shard: Shard) -> Tensor | None:
        return None if parameter.grad is None else parameter.grad.view(-1)


def replicated_masters(engine: DeepSpeedEngine) -> list[tuple[ZeroParameter, tuple[Tensor, int]]]:
    """Return each parameter's master tensor and its offset there, for the three optimizers of stage 0."""
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
    """Common part of stages 1, 2 and 3: a process group, and stored norms of offloaded gradients."""

    def __init__(self, engine: DeepSpeedEngine, tensors: Sequence[PrunableTensor]) -> None:
        self._rank = torch.distributed.get_rank(engine.data_parallel_group)
        self._offloaded = engine.zero_cpu_offload()
        super().__init__(engine, tensors)
        self.group = engine.data_parallel_group

    def refresh_gradient_norms(self) -> None:
        """See the base class: with CPU offload, `backward` has stored the norm of each gradient."""
        if not self._offloaded:
            return
        norms = self._optimizer.norm_for_param_grads
        for index, parameter in enumerate(self.parameters):
            key = self._optimizer.get_param_id(parameter)
            gradient = self.gradient(index)
            if gradient is not None and key in norms:
                norms[key] = gradient.double().norm(2)


class _Stage12(_Partitioned):
    """Stages 1 and 2: all parameters are laid end to end and cut into equal parts, at any element."""

    def refresh_copies(self) -> None:
        """See the base class: each rank rounds its partition, and all gather them."""
        self._optimizer.update_lp_params()

    def _owned(self, parameter: ZeroParameter, numel: int) -> tuple[int, int]:
        if parameter._hp_mapping is None:
            return 0, 0
        address = parameter._hp_mapping.lp_fragment_address
        return address.start, address.numel

    def _master(self, parameter: ZeroParameter) -> tuple[Tensor, int]:
        mapping = parameter._hp_mapping
        flat = self._optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
        return flat, mapping.hp_fragment_address.start

    def _gradient(self, parameter: ZeroParameter, shard: Shard) -> Tensor | None:
        try:
            gradient = parameter._hp_mapping.get_lp_grad_fragment(parameter._index_in_param_group)
        except ValueError:  # no backward pass since the last step
            return None
        values: Tensor | None = gradient.view(-1)
        return values


class _Stage3(_Partitioned):
    """Stage 3: every parameter is cut into equal parts, the last of them padded."""

    def working_copy(self, index: int) -> Tensor:
        """See the base class: between steps, a rank keeps only its own part of the working weights."""
        values: Tensor = self.parameters[index].ds_tensor.detach().view(-1)[: self.shards[index].numel]
        return values

    def copies(self, index: int) -> list[Tensor]:
        """See the base class: each rank also keeps all weights of some parameters."""
        shard, parameter = self.shards[index], self.parameters[index]
        if parameter.ds_status is not ZeroParamStatus.AVAILABLE:
            return super().copies(index)
        return [*super().copies(index), parameter.detach().view(-1)[shard.start : shard.start + shard.numel]]

    def version(self, index: int) -> tuple[int, ...]:
        """See the base class."""
        return *super().version(index), self.parameters[index].ds_tensor._version

    def refresh_copies(self) -> None:
        """See the base class: each rank also keeps all weights of some parameters."""
        self._optimizer.checkpoint_event_prologue()
        super().refresh_copies()
        self._optimizer.checkpoint_event_epilogue()

    def _owned(self, parameter: ZeroParameter, numel: int) -> tuple[int, int]:
        part = parameter.partition_numel()
        start = min(self._rank * part, numel)
        return start, min(start + part, numel) - start

    def _master(self, parameter: ZeroParameter) -> tuple[Tensor, int]:
        sub_group, offset, _ = self._optimizer.grad_position[self._optimizer.get_param_id(parameter)]
        return self._optimizer.fp32_partitioned_groups_flat[sub_group], offset

    def _gradient(self, parameter: ZeroParameter, shard: Shard) -> Tensor | None:
        partition, _ = self._optimizer._get_fp32_grad_state_partition(parameter, release_swap_buffers=False)
        values: Tensor | None = partition.view(-1)[: shard.numel]
        return values
