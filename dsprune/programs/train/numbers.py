"""What is logged of a run: of its steps, and of its events."""

import math
from typing import Any

from dsprune.engine.engine import PruningEngine
from dsprune.errors import RunFailedError
from dsprune.programs.train.keeper import diverged
from dsprune.programs.train.meter import Meter

__all__ = ["event_numbers", "step_numbers"]


def step_numbers(engine: PruningEngine, meter: Meter) -> dict[str, Any]:
    """What is logged of the steps since the last time. Collective: every rank must call this.

    Raises:
        RunFailedError: the loss is not a number any more.
    """
    taken = engine.clock - 1  # the engine's own learning rate is the next step's already
    numbers = meter.read()
    if not math.isfinite(numbers["loss"]):
        raise RunFailedError(diverged(engine.clock))
    return {
        **numbers,
        "learning_rate": engine.lr_scheduler.base_lrs[0] * engine.timetable.lr_multiplier(taken),
        "gradient_norm": float(engine.get_global_grad_norm() or 0.0),
        "phase": engine.timetable.phase_at(taken),
        **engine.sparsity(),
    }


def event_numbers(engine: PruningEngine) -> dict[str, Any]:
    """What is logged of an event. Collective: every rank must call this."""
    pruner = engine.pruner
    assert pruner is not None
    assert pruner.last_event is not None
    return {
        "event_sparsity": pruner.last_event.event.sparsity,
        "event_seconds": pruner.last_event.seconds,
        "event_bytes_sent": pruner.last_event.bytes_sent,
        "mask_bytes": pruner.mask_bytes(),
        **engine.sparsity(),
        "tensor_sparsity": pruner.tensor_sparsity(),
    }
