"""The loss scale of fp16 at ZeRO stage 0, which DeepSpeed divides the gradients by without having applied it.

Read from deepspeed 0.19.8: `DeepSpeedEngine.backward` scales the loss for the optimizers of ZeRO alone, but those of
runtime/fp16, which stage 0 uses, divide the gradients by the scale.
"""

import torch
from deepspeed import DeepSpeedEngine
from deepspeed.runtime.fp16.fused_optimizer import FP16_Optimizer
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from torch import Tensor

__all__ = ["scale_loss"]


def scale_loss(engine: DeepSpeedEngine, loss: Tensor, parts: int) -> None:
    """Have the backward pass of `loss` begin with the loss scale, where DeepSpeed has left it out.

    Args:
        engine: an engine of any stage and precision.
        loss: of a micro-batch.
        parts: the number that DeepSpeed divides the loss by, for accumulation.
    """
    if isinstance(engine.optimizer, FP16_Optimizer | FP16_UnfusedOptimizer) and loss.requires_grad:
        gradient = engine.optimizer.loss_scale / parts  # 1 / parts in bf16
        # The gradient is set, not multiplied, so this does nothing once DeepSpeed scales the loss itself.
        loss.register_hook(lambda grad: torch.full_like(grad, gradient))
