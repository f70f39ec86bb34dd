"""The keys of a ds_config and the types of their values: DeepSpeed's models, and dsprune's if it has none."""

from typing import Annotated, Any, Literal

from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.compile.config import CompileConfig
from deepspeed.monitor.config import CometConfig, CSVConfig, TensorBoardConfig, WandbConfig
from deepspeed.runtime.config import HybridEngineConfig, WeightQuantConfig
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
from deepspeed.runtime.tensor_parallel.config import TPTrainingConfig
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.utils.config import DeepSpeedThroughputTimerConfig
from pydantic import BaseModel, Field

from dsprune.recipe.section import LARGEST, Count, Positive

__all__ = ["DsConfig", "OptimizerParams"]

Dtype = Literal["fp32", "fp16", "bf16"]
Decay = Annotated[float, Field(ge=0, lt=1)]


class _Optimizer(BaseModel):
    type: str
    params: dict[str, Any]
    legacy_fusion: bool


class OptimizerParams(BaseModel):
    """Settings of optimizers; the signature of an optimizer selects its settings."""

    lr: Annotated[float, Field(ge=0, le=1000)]
    betas: tuple[Decay, Decay]
    eps: Annotated[float, Field(gt=0, le=1)]
    weight_decay: Annotated[float, Field(ge=0, le=100)]
    momentum: Decay
    dampening: Annotated[float, Field(ge=0, le=1)]
    alpha: Decay
    lr_decay: Annotated[float, Field(ge=0, le=LARGEST)]
    momentum_decay: Annotated[float, Field(ge=0, le=1)]
    initial_accumulator_value: Annotated[float, Field(ge=0, le=LARGEST)]
    min_coeff: Positive
    max_coeff: Positive
    torch_adam: bool
    adam_w_mode: bool
    fp32_optimizer_states: bool
    bias_correction: bool
    set_grad_none: bool
    eps_inside_sqrt: bool
    decoupled_weight_decay: bool
    nesterov: bool
    centered: bool
    amsgrad: bool
    foreach: bool | None
    fused: bool | None
    maximize: bool
    capturable: bool
    differentiable: bool


class _TorchAutocast(BaseModel):
    enabled: bool
    dtype: str
    lower_precision_safe_modules: list[str]


class _DataTypes(BaseModel):
    grad_accum_dtype: Dtype | None
    param_dtype: Dtype | None
    buffer_dtype: Dtype | None
    keep_in_fp32_modules: list[str]


class _ActivationCheckpointing(BaseModel):
    partition_activations: bool
    contiguous_memory_optimization: bool
    cpu_checkpointing: bool
    number_checkpoints: Count | None
    synchronize_checkpoint_boundary: bool
    profile: bool


class _FlopsProfiler(BaseModel):
    enabled: bool
    recompute_fwd_factor: Annotated[float, Field(ge=0, le=LARGEST)]
    profile_step: Count
    module_depth: int
    top_modules: Count
    detailed: bool
    output_file: str | None


class _ParallelWrite(BaseModel):
    pipeline_stage: bool


class _Checkpoint(BaseModel):
    tag_validation: str
    checkpoint_serialization: bool
    load_universal: bool
    use_node_local_storage: bool
    parallel_write: _ParallelWrite
    writer: dict[str, Any] | None


class _Timers(BaseModel):
    throughput: DeepSpeedThroughputTimerConfig


class DsConfig(BaseModel):
    """A ds_config. It is never instantiated, so its fields have no defaults."""

    train_batch_size: Count
    train_micro_batch_size_per_gpu: Count
    gradient_accumulation_steps: Count
    managed_gradient_accumulation: bool
    gradient_clipping: Annotated[float, Field(ge=0, le=LARGEST)]
    gradient_predivide_factor: Positive
    gradient_allreduce_op: str
    prescale_gradients: bool
    communication_data_type: Dtype | None
    seq_parallel_communication_data_type: Dtype | None
    disable_allgather: bool
    sequence_parallel_size: Count
    data_parallel_size: Count
    use_data_before_expert_parallelism: bool
    steps_per_print: Annotated[float, Field(ge=1)] | None  # Accelerate writes infinity
    wall_clock_breakdown: bool
    memory_breakdown: bool
    dump_state: bool
    disable_python_gc: bool
    dataloader_drop_last: bool
    log_level: str | None
    vocabulary_size: Count | None
    zero_allow_untested_optimizer: bool
    zero_force_ds_cpu_optimizer: bool

    optimizer: _Optimizer
    scheduler: dict[str, Any]
    bf16: DeepSpeedBF16Config
    fp16: DeepSpeedFP16Config
    bfloat16: DeepSpeedBF16Config
    torch_autocast: _TorchAutocast
    data_types: _DataTypes
    zero_optimization: DeepSpeedZeroConfig
    tensor_parallel: TPTrainingConfig
    expert_parallel: dict[str, Any]
    pipeline: dict[str, Any]
    compile: CompileConfig
    hybrid_engine: HybridEngineConfig
    weight_quantization: WeightQuantConfig
    data_efficiency: dict[str, Any]
    activation_checkpointing: _ActivationCheckpointing
    checkpoint: _Checkpoint
    datastates_ckpt: dict[str, Any]
    aio: dict[str, Any]  # for NVMe, which is refused; Lightning writes a key that DeepSpeed has removed
    tensorboard: TensorBoardConfig
    wandb: WandbConfig
    csv_monitor: CSVConfig
    comet: CometConfig
    comms_logger: CommsLoggerConfig
    flops_profiler: _FlopsProfiler
    timers: _Timers
    autotuning: dict[str, Any]
