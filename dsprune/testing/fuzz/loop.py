"""The loop of a fuzz: attempts at all targets in turn, each of which can be repeated alone."""

import gc
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dsprune.testing.fuzz.attempt import Target, judge, perform

__all__ = ["Tally", "fuzz"]

COLLECT_EVERY = 10
"""Inputs of each target between two garbage collections."""


@dataclass
class Tally:
    """The results of a fuzz.

    Attributes:
        codes: number of steps by target and exit code.
        inputs: number of inputs by target.
        wrong: name, input and problem of each attempt with a wrong ending.
    """

    codes: dict[str, Counter[int | None]] = field(default_factory=dict)
    inputs: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def fuzz(
    makers: Mapping[str, Callable[[Path], Target]],
    folder: Path,
    *,
    seed: int = 0,
    inputs: float = float("inf"),
    seconds: float = float("inf"),
    only: int | None = None,
    progress: Callable[[Tally], object] = lambda tally: None,
) -> Tally:
    """Attempt the targets in turn, until the number of inputs or the time is reached.

    Args:
        makers: makers of the targets by name; each gets a folder for its files.
        folder: an empty folder to work in.
        seed: seed; an attempt depends only on the seed, its target and its number.
        inputs: number of inputs of each target.
        seconds: time after which no attempt starts.
        only: the number of the only attempt of each target.
        progress: called after each attempt.
    """
    targets = {name: make(_new(folder / name)) for name, make in makers.items()}
    tally, started = Tally(), time.monotonic()
    with _libraries_frozen():
        for number in _numbers(inputs, only):
            if number % COLLECT_EVERY == 0:
                gc.collect()  # mapped files and engines are in reference cycles
            for name, target in targets.items():
                if time.monotonic() - started > seconds:
                    return tally
                _attempt(name, target, number, seed, folder / "input", tally)
                progress(tally)
    return tally


@contextmanager
def _libraries_frozen() -> Iterator[None]:
    """Exclude the existing objects from garbage collections."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _numbers(inputs: float, only: int | None) -> Iterator[int]:
    number = 0 if only is None else only
    while number < inputs and (only is None or number == only):
        yield number
        number += 1


def _attempt(name: str, target: Target, number: int, seed: int, folder: Path, tally: Tally) -> None:
    rng = random.Random(f"{seed} {name} {number}")
    attempt = target.attempt(_new(folder), rng)
    outcomes = perform(attempt)
    tally.inputs[name] += 1
    tally.codes.setdefault(name, Counter()).update(outcome.code for outcome in outcomes)
    if problem := judge(attempt, outcomes):
        tally.wrong.append(f"{name} {number}: {attempt.what}: {problem}")


def _new(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
