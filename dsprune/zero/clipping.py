"""Clipping of gradients without a ZeRO optimizer: at stage 0 in fp32."""

from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.utils import clip_grad_norm_

__all__ = ["clip_gradients"]


def clip_gradients(engine: DeepSpeedEngine) -> None:
    """Clip the gradients as the engine would, and keep their norm, which DeepSpeed drops here."""
    parameters, most = engine.module.parameters(), engine.gradient_clipping()
    engine._global_grad_norm = clip_grad_norm_(parameters, max_norm=most, mpu=engine.mpu)
