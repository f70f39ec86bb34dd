"""Show the progress of a run on its first rank: a bar on a terminal, otherwise a line every 30 seconds."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

from rich.console import Console

from dsprune.schedule import Timetable
from dsprune.utils.console import EVERY, progress_bar, say, waiting
from dsprune.utils.text import percent

__all__ = ["Display", "describe_metrics", "describe_step"]


class Display:
    """Shows the progress of a run; a context manager around its steps."""

    def __init__(self, console: Console, name: str, timetable: Timetable) -> None:
        self._console, self._name = console, name
        self._total, self._told = timetable.total_steps, time.monotonic()
        self._bar = progress_bar(console)
        self._task = self._bar.add_task(name, total=self._total, note="")

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, step: int) -> None:
        """Show the number of steps."""
        self._bar.update(self._task, completed=step)

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Show logged values next to the bar, or in a line if the last line is at least `EVERY` seconds old."""
        note = describe_step(metrics)
        self._bar.update(self._task, note=note)
        now = time.monotonic()
        if self._bar.disable and now - self._told >= EVERY:
            self._told = now
            left = timedelta(seconds=round((self._total - step) * metrics["seconds_per_step"]))
            say(self._console, f"{self._name}: step {step:,} of {self._total:,}, {note}, {left} left")

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Show the activity of the run in the block, between two steps."""
        self._bar.update(self._task, description=f"{self._name}: {what}", refresh=True)
        with waiting(self._console, what) if self._bar.disable else nullcontext():
            yield
        self._bar.update(self._task, description=self._name)


def describe_metrics(metrics: Mapping[str, float]) -> str:
    """Describe the metrics of an evaluation.

    Examples:
        >>> describe_metrics({"accuracy": 0.5, "f1": 0.25})
        'accuracy 0.5000, f1 0.2500'
    """
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def describe_step(metrics: dict[str, Any]) -> str:
    """Describe loss, sparsity and learning rate."""
    return (
        f"loss {metrics['loss']:.4f}, sparsity {percent(metrics.get('sparsity_prunable', 0.0))}, "
        f"learning rate {metrics['learning_rate']:.2e}"
    )
