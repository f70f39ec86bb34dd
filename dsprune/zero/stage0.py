"""Correct DeepSpeed's engine at ZeRO stage 0: the loss scale of fp16, the norm of clipped gradients, and a first step.

Read from deepspeed 0.19.8: `DeepSpeedEngine.backward` scales the loss only for the optimizers of ZeRO, but those of
runtime/fp16, which stage 0 uses, divide the gradients by the scale. When they are made, they also take a step with
gradients of zero, to allocate the moments.
"""

import torch
from deepspeed import DeepSpeedEngine
from deepspeed.runtime.fp16.fused_optimizer import FP16_Optimizer
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.runtime.utils import clip_grad_norm_
from torch import Tensor

from dsprune.zero.stages import replicated_masters

__all__ = ["clip_gradients", "scale_loss", "undo_first_step"]


def undo_first_step(engine: DeepSpeedEngine) -> None:
    """Undo the step of a new 16-bit optimizer, so that it is as at the other stages.

    The step has decayed the weights and counts in the bias corrections, and its moments of zero would make all Fisher
    scores of a first mask update zero.
    """
    optimizer = engine.optimizer
    if not isinstance(optimizer, FP16_Optimizer | FP16_UnfusedOptimizer) or engine.global_steps:
        return
    engine.basic_optimizer.state.clear()
    with torch.no_grad():
        for parameter, (master, offset) in replicated_masters(engine):
            master.view(-1)[offset : offset + parameter.numel()].copy_(parameter.view(-1))


def clip_gradients(engine: DeepSpeedEngine) -> None:
    """Clip fp32 gradients like the engine, and keep their norm, which DeepSpeed drops."""
    parameters, most = engine.module.parameters(), engine.gradient_clipping()
    engine._global_grad_norm = clip_grad_norm_(parameters, max_norm=most, mpu=engine.mpu)


def scale_loss(engine: DeepSpeedEngine, loss: Tensor, parts: int) -> None:
    """Start the backward pass of a micro-batch with the loss scale if DeepSpeed has not applied it.

    DeepSpeed divides the loss by `parts`, for accumulation.
    """
    if isinstance(engine.optimizer, FP16_Optimizer | FP16_UnfusedOptimizer) and loss.requires_grad:
        gradient = (engine.optimizer.loss_scale or 1.0) / parts  # one of both has none in bf16
        # The gradient is set, not multiplied, so this does nothing once DeepSpeed scales the loss itself.
        loss.register_hook(lambda grad: torch.full_like(grad, gradient))
