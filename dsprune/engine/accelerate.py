"""Accelerate: the loaders that it prepares, and its number of processes on CPUs."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import deepspeed
import torch
from accelerate import Accelerator, PartialState

from dsprune.errors import UserError
from dsprune.ranks.ranks import expected_ranks
from dsprune.utils.replacing import replaced
from dsprune.zero.launch import init_distributed

__all__ = ["check_processes", "extend_accelerate"]


def extend_accelerate(stack: ExitStack, loaders: list[Any]) -> None:
    """Keep the loaders that Accelerate prepares, and let it find all ranks on CPUs, until `stack` is closed."""
    prepare = _recording(Accelerator.prepare_data_loader, loaders)
    stack.enter_context(replaced(Accelerator, "prepare_data_loader", prepare))
    stack.enter_context(replaced(PartialState, "__init__", _finding_ranks(PartialState.__init__)))


def check_processes() -> None:
    """Check that Accelerate, if it is used, knows of all ranks.

    Raises:
        UserError: it does not, as on CPUs, where it ignores the ranks of DeepSpeed.
    """
    known, world_size = PartialState._shared_state.get("num_processes"), deepspeed.comm.get_world_size()
    if known not in (None, world_size):
        raise UserError(
            f"accelerate: counts {known} process, and {world_size} ranks train: on CPUs, call "
            f"accelerate.PartialState(cpu=True) before Accelerator(...) or TrainingArguments(...)"
        )


def _recording(prepare: Callable[..., Any], loaders: list[Any]) -> Callable[..., Any]:
    """Return `prepare`, which also keeps the loaders that it returns."""

    def recording(*args: Any, **kwargs: Any) -> Any:
        loader = prepare(*args, **kwargs)
        loaders.append(loader)
        return loader

    return recording


def _finding_ranks(init: Callable[..., None]) -> Callable[..., None]:
    """Return `PartialState.__init__`, which on CPUs has all ranks, and joins them for DeepSpeed too."""

    def finding(self: PartialState, cpu: bool = False, **kwargs: Any) -> None:
        several = expected_ranks().world_size > 1 and not torch.accelerator.is_available()
        init(self, cpu=cpu or several, **kwargs)
        if several and not deepspeed.comm.is_initialized():
            init_distributed()  # `deepspeed.zero.Init` asks DeepSpeed for the number of ranks

    return finding
