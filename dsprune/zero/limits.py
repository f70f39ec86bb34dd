"""The settings and engines that dsprune does not support, which are refused before training."""

import os
from collections.abc import Iterator
from inspect import unwrap
from typing import Any

from deepspeed import DeepSpeedEngine
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.config import (
    _REMOVED_TOP_LEVEL_CONFIG_KEYS,
    _REMOVED_ZERO_CONFIG_KEYS,
    DeepSpeedConfig,
)
from deepspeed.runtime.pipe.engine import PipelineEngine
from deepspeed.runtime.zero.utils import ZERO_SUPPORTED_OPTIMIZERS
from pydantic import ValidationError
from torch.optim import Optimizer

from dsprune.errors import UserError
from dsprune.methods.method import find_method
from dsprune.utils.text import short
from dsprune.zero.keys import OPTIMIZERS_OF_TORCH, class_of, setting, wrong_keys

__all__ = [
    "check_by_deepspeed",
    "check_device",
    "check_ds_config",
    "check_engine",
    "check_optimizer_state",
    "check_tested",
    "optimizer_kind",
    "wrong_settings",
]

# Optimizers that leave weight and state of an entry at zero if both and the gradient are zero, unlike Adamax, whose
# state is never below eps, and DeepSpeed's Lions, which move a weight of zero by the learning rate. With these, masking
# the gradient is enough between mask updates.
ELEMENTWISE_OPTIMIZERS = frozenset(
    {"Adam", "AdamW", "FusedAdam", "DeepSpeedCPUAdam", "SGD", "RMSprop", "NAdam", "RAdam"}
    | {"Lion", "FusedLamb"}
)

# DeepSpeed's names in a ds_config, whose case it ignores. It looks for torch's after them.
OPTIMIZERS_OF_DEEPSPEED = frozenset({"adam", "adamw", "lamb"})

# The state that optimizers outside the Adam family keep for each weight, by their names in lower case.
OPTIMIZER_STATE: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum_buffer",),
    "rmsprop": ("square_avg",),
    "lion": ("exp_avg",),
}

_OFF = (None, False)
_ON = (None, True)
_ONE = (None, 0, 1)
_CPU = (None, "none", "cpu")

# (dotted key, allowed values, reason and alternative). All other values are refused, because DeepSpeed may read them as
# true: some of its sections read any text as true.
_REFUSED: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("zero_optimization.offload_optimizer.device", _CPU, "swapped optimizer state; use 'cpu'"),
    ("zero_optimization.offload_param.device", _CPU, "swapped parameters; use 'cpu'"),
    ("zero_optimization.offload_optimizer.super_offload", _OFF, "SuperOffload; leave it out"),
    ("zero_optimization.offload_optimizer.ratio", (None, 1), "Twin-Flow; use 1.0"),
    ("zero_optimization.zenflow", (None,), "ZenFlow updates weights outside the optimizer; leave it out"),
    ("zero_optimization.mics_shard_size", _ONE, "MiCS; leave it out"),
    ("zero_optimization.zero_hpz_partition_size", _ONE, "hpZ keeps secondary weight copies; leave it out"),
    ("zero_optimization.zero_quantized_weights", _OFF, "ZeRO++ quantized weights; leave it out"),
    ("zero_optimization.zero_quantized_gradients", _OFF, "ZeRO++ quantized gradients; leave it out"),
    ("zero_optimization.round_robin_gradients", _OFF, "DeepSpeed misplaces its own partitions; leave it out"),
    ("zero_optimization.elastic_checkpoint", _OFF, "DeepSpeed cannot load its own checkpoints; leave it out"),
    (
        "zero_optimization.load_from_fp32_weights",
        _ON,
        "resuming would round the master weights; leave it out",
    ),
    ("tensor_parallel.autotp_size", _ONE, "tensor parallelism; use ZeRO alone"),
    ("expert_parallel.enabled", _OFF, "expert parallelism; use ZeRO alone"),
    ("sequence_parallel_size", _ONE, "sequence parallelism; use ZeRO alone"),
    ("pipeline.stages", (*_ONE, "auto"), "pipeline parallelism; use ZeRO alone"),
    ("compile.deepcompile", _OFF, "DeepCompile moves the gradients; leave it out"),
    ("hybrid_engine.enabled", _OFF, "another engine; leave it out"),
    ("weight_quantization", (None,), "quantized weights; leave it out"),
    ("autotuning.enabled", _OFF, "DeepSpeed ends the process after a few steps; leave it out"),
    ("data_efficiency.enabled", _OFF, "other examples and layers than the recipe's; leave it out"),
    ("managed_gradient_accumulation", _ON, "gradients are reduced inside step(); leave it out"),
    ("bf16.bf16_master_weights_and_grads", _OFF, "master weights below fp32; leave it out"),
    ("bf16.bf16_optimizer_states", _OFF, "optimizer states below fp32; leave it out"),
    ("fp16.fp16_master_weights_and_grads", _OFF, "master weights below fp32; leave it out"),
    ("torch_autocast.enabled", _OFF, "torch autocast; use bf16.enabled or fp16.enabled"),
)


def check_ds_config(config: dict[str, Any]) -> None:
    """Check a DeepSpeed config for settings that dsprune does not support.

    Raises:
        UserError: there are unsupported settings; one line names each with its value.
    """
    problems = list(_refused_settings(config))
    if problems:
        raise UserError("ds_config: " + "; ".join(problems))


def check_tested(config: dict[str, Any]) -> None:
    """Check that DeepSpeed makes the optimizer of a resolved config at its ZeRO stage.

    Raises:
        UserError: DeepSpeed has not tested it with ZeRO, and the config does not allow that.
    """
    stage, optimizer = setting(config, "zero_optimization.stage"), config["optimizer"]
    kind = class_of(optimizer["type"], optimizer.get("params") or {}, config)
    is_tested = not stage or kind in ZERO_SUPPORTED_OPTIMIZERS
    if not is_tested and config.get("zero_allow_untested_optimizer") is not True:
        raise UserError(
            f"ds_config: zero_allow_untested_optimizer: DeepSpeed has not tested {optimizer['type']} at ZeRO stage "
            f"{stage}: set it to true in the ds_config, or use optimizer.type=AdamW or deepspeed=zero0"
        )


def check_device(config: dict[str, Any]) -> None:
    """Check that a device exists, and that it supports the precision of a resolved config.

    Raises:
        UserError: no device exists, or it does not support the precision (fp16 on a CPU).
    """
    device = get_accelerator()
    if not device.is_available():
        raise UserError(
            f"DS_ACCELERATOR={os.environ.get('DS_ACCELERATOR')!r}: torch finds no such device: unset it, and DeepSpeed "
            f"chooses the device"
        )
    for precision, is_supported in (("fp16", device.is_fp16_supported), ("bf16", device.is_bf16_supported)):
        if setting(config, f"{precision}.enabled") is True and not is_supported():
            raise UserError(
                f"precision: {precision}: DeepSpeed does not train in it on this machine's device, "
                f"{device.device_name()}: set precision=fp32, or train on a GPU"
            )


def wrong_settings(config: dict[str, Any]) -> Iterator[str]:
    """Yield a message on each key that DeepSpeed does not know, and on each value that is not of its type."""
    if "bfloat16" in config:
        yield "ds_config: bfloat16: the old name of the section bf16, which is there, too: leave one out"
    # DeepSpeed has its own message on each removed key.
    zero = config.get("zero_optimization")
    present = {key: value for key, value in config.items() if key not in _REMOVED_TOP_LEVEL_CONFIG_KEYS}
    if isinstance(zero, dict):
        kept = {key: value for key, value in zero.items() if key not in _REMOVED_ZERO_CONFIG_KEYS}
        present["zero_optimization"] = kept
    yield from wrong_keys(present)


def check_by_deepspeed(config: dict[str, Any]) -> None:
    """Check a config by DeepSpeed's own rules, before data and model are loaded.

    Raises:
        UserError: DeepSpeed's message, in one line.
    """
    # DeepSpeed's check of the batch sizes needs the process group, which may not exist yet. With the micro-batch
    # alone it is skipped.
    sizes = ("train_batch_size", "gradient_accumulation_steps")
    try:
        DeepSpeedConfig({key: value for key, value in config.items() if key not in sizes})
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        message = f"ds_config: {error.title}: {field}={problem['input']!r}: {problem['msg']}"
        raise UserError(message) from error
    except Exception as error:  # it checks some values by using them
        raise UserError(f"ds_config: DeepSpeed refuses it: {' '.join(str(error).split())}") from error


def check_engine(engine: DeepSpeedEngine) -> None:
    """Check an initialized engine for parts that dsprune does not support.

    Raises:
        UserError: the engine uses a pipeline, experts, model parallelism, or an optimizer that is not
            element-wise or that keeps complete gradients on every rank.
    """
    check_ds_config(engine.config)
    if isinstance(engine, PipelineEngine):
        raise UserError("engine: PipelineEngine is not supported: train with ZeRO instead of a pipeline")
    if engine.has_moe_layers:
        raise UserError("engine: DeepSpeed MoE layers are not supported: use a dense model")
    if engine.dp_world_size != engine.world_size:
        raise UserError(
            f"engine: its {engine.world_size} ranks are not one data-parallel group: model, tensor and sequence "
            f"parallelism (mpu, mesh_param) are not supported: train with ZeRO alone"
        )
    if isinstance(engine.optimizer, BF16_Optimizer):
        raise UserError(
            "ds_config: data_types.grad_accum_dtype=fp32 with bf16 at ZeRO stage 1 is not supported (complete "
            "gradients on every rank): set zero_optimization.stage=2 or leave data_types out"
        )
    optimizer_kind(engine.basic_optimizer)


def optimizer_kind(optimizer: Optimizer) -> str:
    """Return the class of an element-wise optimizer; for a subclass with the same `step`, its base class.

    Raises:
        UserError: the optimizer is not known to be element-wise.
    """
    kinds = type(optimizer).__mro__
    for kind in kinds:
        if issubclass(kind, Optimizer) and kind.__name__ in ELEMENTWISE_OPTIMIZERS:
            # torch wraps the `step` of each class when it makes an optimizer of the class.
            if unwrap(type(optimizer).step) is unwrap(kind.step):
                return kind.__name__
            raise UserError(
                f"optimizer: {kinds[0].__name__} is not supported (its step() is not that of {kind.__name__} and "
                f"may not be element-wise): use AdamW"
            )
    raise UserError(f"optimizer: {kinds[0].__name__} is not supported (not element-wise): use AdamW")


def check_optimizer_state(optimizer: str, method: str) -> None:
    """Check that an optimizer (a class, or a type in a ds_config) keeps the state that a pruning method reads.

    Raises:
        UserError: the method needs state that the optimizer does not have.
    """
    has = OPTIMIZER_STATE.get(optimizer.lower(), ("exp_avg", "exp_avg_sq"))
    missing = [name for name in find_method(method).needs if name not in has]
    if missing:
        raise UserError(
            f"pruning.method: {method!r} reads {', '.join(missing)} of the optimizer, which {optimizer} does not keep: "
            f"use AdamW, or pruning.method=empirical-fisher or magnitude"
        )


def _refused_settings(config: dict[str, Any]) -> Iterator[str]:
    for key, harmless, reason in _REFUSED:
        value = setting(config, key)
        if value not in harmless:
            yield f"{key}={short(value)} is not supported ({reason})"
    optimizer = setting(config, "optimizer.type")
    if optimizer is not None and not (isinstance(optimizer, str) and _is_elementwise(optimizer)):
        why = f"not element-wise or unknown; use one of {', '.join(sorted(OPTIMIZERS_OF_TORCH))}"
        if isinstance(optimizer, str) and optimizer.lower() == "lion":
            why = "DeepSpeed's Lion moves weights of zero; use AdamW"
        yield f"optimizer.type={short(optimizer)} is not supported ({why})"


def _is_elementwise(optimizer: str) -> bool:
    """Return whether DeepSpeed builds an element-wise optimizer for this name."""
    return optimizer.lower() in OPTIMIZERS_OF_DEEPSPEED or optimizer in OPTIMIZERS_OF_TORCH
