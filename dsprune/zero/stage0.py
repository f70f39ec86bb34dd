"""Add what DeepSpeed's engine lacks at ZeRO stage 0: the loss scale of fp16, and the norm of clipped gradients.

Read from deepspeed 0.19.8: `DeepSpeedEngine.backward` scales the loss only for the optimizers of ZeRO, but those of
runtime/fp16, which stage 0 uses, divide the gradients by the scale.
"""

import torch
from deepspeed import DeepSpeedEngine
from deepspeed.runtime.fp16.fused_optimizer import FP16_Optimizer
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.runtime.utils import clip_grad_norm_
from torch import Tensor

__all__ = ["clip_gradients", "scale_loss"]


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
