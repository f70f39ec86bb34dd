"""Drop the gradients of a step: DeepSpeed would apply those of a parameter again that the next step does not use.

Read from deepspeed 0.19.8: ZeRO stage 3 and the offload of the optimizer keep a buffer of gradients, and write only
those of the parameters that a backward pass reaches, which differ between steps with layer drop or with several heads.
Stages 1 and 2 keep those of the micro-batches of a step until it is applied, also if a checkpoint is loaded meanwhile.
"""

from deepspeed import DeepSpeedEngine
from deepspeed.runtime.zero.stage_1_and_2 import INITIAL_MICRO_STEP_ID, DeepSpeedZeroOptimizer

__all__ = ["drop_applied_gradients", "drop_gradients"]


def drop_applied_gradients(engine: DeepSpeedEngine) -> None:
    """Drop the gradients that DeepSpeed keeps after a step."""
    optimizer = engine.optimizer
    if engine.zero_optimization_partition_weights():
        optimizer.grad_partitions_flat_buffer.zero_()
    if engine.zero_cpu_offload():
        masters = getattr(optimizer, "single_partition_of_fp32_groups", None)  # of stages 1 and 2
        for master in optimizer.fp32_partitioned_groups_flat if masters is None else masters:
            if master.grad is not None:
                master.grad.zero_()


def drop_gradients(engine: DeepSpeedEngine) -> None:
    """Drop all gradients, also in the middle of a step."""
    drop_applied_gradients(engine)
    engine.zero_grad()
    optimizer = engine.optimizer
    if isinstance(optimizer, DeepSpeedZeroOptimizer):
        optimizer.zero_grad()
        optimizer.micro_step_id = INITIAL_MICRO_STEP_ID
        for gradients in (optimizer.all_grad_tensors, optimizer.averaged_gradients):
            gradients.update(dict.fromkeys(gradients))
