"""Notice the backward passes that torch starts, by `loss.backward()`, and not the engine."""

from collections.abc import Callable
from typing import Any

from deepspeed.runtime.utils import register_output_backward_hooks

__all__ = ["watch_backward"]


def watch_backward(outputs: Any, begin: Callable[[], None]) -> None:
    """Call `begin` once when a backward pass reaches the outputs of a forward pass.

    Args:
        outputs: what the forward pass of the engine returned. DeepSpeed supports `loss.backward()` for tensors, and for
            tuples, lists and dicts of them.
        begin: its exceptions end the backward pass.
    """
    register_output_backward_hooks(outputs, begin)
