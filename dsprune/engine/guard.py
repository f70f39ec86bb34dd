"""Guards: a run in which something else steps the optimizer or sets its rates ends with one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer

from dsprune.errors import RunFailedError

__all__ = ["Guard"]


class Guard:
    """Ends a run whose base optimizer steps outside of `PruningEngine.step`, or without dsprune's hooks.

    The check is a hook of the base optimizer, which steps the fp32 master weights. So it holds for every framework,
    whatever method of the engine it calls.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._is_open = self._has_stepped = False
        optimizer.register_step_pre_hook(self._check)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Allow the optimizer to step while the block runs."""
        self._is_open, self._has_stepped = True, False
        try:
            yield
        finally:
            self._is_open = False

    def check_stepped(self, *, applied: bool) -> None:
        """Check that the hook ran in the last `open`, if the step was applied.

        Raises:
            RunFailedError: the optimizer has lost its hooks, and with them the zeros of a mask update.
        """
        if applied and not self._has_stepped:
            raise RunFailedError(
                "optimizer: its step hooks were removed or replaced, and dsprune prunes in one of them: keep the "
                "hooks, and register yours beside them"
            )

    def _check(self, optimizer: Optimizer, *_: Any) -> None:
        if not self._is_open:
            raise RunFailedError(
                f"optimizer: {type(optimizer).__name__}.step() was called outside of PruningEngine.step(), which would "
                "train without masks: call the step() of the engine, not that of the optimizer or of another class"
            )
        self._has_stepped = True
