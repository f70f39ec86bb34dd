"""Extend Accelerate: record its loaders, count its steps, and let it find all ranks on CPUs."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from math import isclose, isinf
from typing import Any

import deepspeed
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils.deepspeed import DeepSpeedEngineWrapper, DeepSpeedOptimizerWrapper

from dsprune.errors import RunFailedError, UserError
from dsprune.ranks.ranks import expected_ranks
from dsprune.utils.replacing import replaced
from dsprune.zero.launch import init_distributed

__all__ = ["check_processes", "extend_accelerate"]


def extend_accelerate(stack: ExitStack, loaders: list[Any]) -> None:
    """Record Accelerate's loaders, check its steps and clipping, and let it find all ranks on CPUs.

    This ends when `stack` is closed.
    """
    steps: Counter[int] = Counter()
    backward, step = DeepSpeedEngineWrapper.backward, DeepSpeedOptimizerWrapper.step
    stack.enter_context(replaced(DeepSpeedEngineWrapper, "backward", _counting(backward, steps)))
    stack.enter_context(replaced(DeepSpeedOptimizerWrapper, "step", _checking(step, steps)))
    clip = _clipping(Accelerator.clip_grad_norm_)
    stack.enter_context(replaced(Accelerator, "clip_grad_norm_", clip))
    prepare = _recording(Accelerator.prepare_data_loader, loaders)
    stack.enter_context(replaced(Accelerator, "prepare_data_loader", prepare))
    stack.enter_context(replaced(PartialState, "__init__", _finding_ranks(PartialState.__init__)))


def check_processes() -> None:
    """Check that Accelerate, if it is used, knows all ranks.

    Raises:
        UserError: it does not; on CPUs it ignores the ranks of DeepSpeed.
    """
    known, world_size = PartialState._shared_state.get("num_processes"), deepspeed.comm.get_world_size()
    if known not in (None, world_size):
        raise UserError(
            f"accelerate: counts {known} process, but {world_size} ranks train: on CPUs, call "
            f"accelerate.PartialState(cpu=True) before Accelerator(...) or TrainingArguments(...)"
        )


def _recording(prepare: Callable[..., Any], loaders: list[Any]) -> Callable[..., Any]:
    """Wrap `prepare` to also record the loaders that it returns."""

    def recording(*args: Any, **kwargs: Any) -> Any:
        loader = prepare(*args, **kwargs)
        loaders.append(loader)
        return loader

    return recording


def _counting(backward: Callable[..., None], steps: Counter[int]) -> Callable[..., None]:
    """Wrap Accelerate's `backward`, which may step the engine, to count these steps by optimizer."""

    def counting(self: DeepSpeedEngineWrapper, *args: Any, **kwargs: Any) -> None:
        before = self.engine.global_steps
        backward(self, *args, **kwargs)
        steps[id(self.engine.optimizer)] += self.engine.global_steps - before

    return counting


def _checking(step: Callable[..., None], steps: Counter[int]) -> Callable[..., None]:
    """Wrap `step` of Accelerate's optimizer, which does nothing itself, to end a run with a wrong number of steps."""

    def checking(self: DeepSpeedOptimizerWrapper) -> None:
        count = steps.pop(id(self.optimizer), 0)
        if count > 1:
            raise RunFailedError(
                f"accelerate: {count} calls of accelerator.backward before one optimizer.step(), and each one steps "
                f"the engine: call it once, on the sum of the losses, or accumulate in accelerator.accumulate(model)"
            )
        step(self)

    return checking


def _clipping(clip: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `clip_grad_norm_`, which under DeepSpeed only returns the norm, to end a run that clips elsewhere."""

    def clipping(self: Accelerator, parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
        wrapped = self.deepspeed_engine_wrapped
        clips_at = max_norm if wrapped is None else wrapped.engine.gradient_clipping()
        # Infinity asks for the norm alone.
        if not isclose(max_norm, clips_at, rel_tol=1e-6) and not isinf(max_norm):
            raise UserError(
                f"accelerate: clip_grad_norm_ has max_norm={max_norm:g} (TrainingArguments: max_grad_norm), but "
                f"DeepSpeed clips, at gradient_clipping={clips_at:g}: give both the same value"
            )
        return clip(self, parameters, max_norm, *args, **kwargs)

    return clipping


def _finding_ranks(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap `PartialState.__init__` to find all ranks on CPUs, and to create their process group for DeepSpeed too."""

    def finding(self: PartialState, cpu: bool = False, **kwargs: Any) -> None:
        several = expected_ranks().world_size > 1 and not torch.accelerator.is_available()
        init(self, cpu=cpu or several, **kwargs)
        if several and not deepspeed.comm.is_initialized():
            init_distributed()  # `deepspeed.zero.Init` asks DeepSpeed for the number of ranks

    return finding
