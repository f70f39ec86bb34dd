"""The time that pruning adds to the steps of BERT-base under DeepSpeed, on one rank, between and at mask updates."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from deepspeed import DeepSpeedEngine
from rich.table import Table
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

import dsprune
from bench.figures import table_with
from bench.tools import milliseconds, on_ranks
from dsprune.engine.engine import PruningEngine
from dsprune.recipe import Recipe

__all__ = ["optimizer_steps", "training_steps"]

WARM_UP = 3  # steps; after them every other step has a mask update
SPARSITY = 0.9


class Times(NamedTuple):
    """Milliseconds of a step's parts.

    Attributes:
        backward: forward and backward pass.
        pruning: the pruner's work, before and after the engine's step.
        step: DeepSpeed's own `engine.step()`.
    """

    backward: float
    pruning: float
    step: float


def optimizer_steps(repeats: int, stages: Iterable[int], precisions: Iterable[str]) -> Table:
    """Measure the time that pruning adds to `engine.step()`, after a forward and backward pass of a few tokens."""
    title = "Milliseconds of engine.step(), and what pruning adds"
    return _table(title, (1, 8), repeats, stages, precisions, lambda times: times.step, "25 %")


def training_steps(repeats: int, stages: Iterable[int], precisions: Iterable[str]) -> Table:
    """Measure the time that pruning adds to a training step, including forward and backward pass."""
    title = "Milliseconds of a training step of 8 x 128 tokens, and what pruning adds"
    return _table(title, (8, 128), repeats, stages, precisions, lambda t: t.backward + t.step, "2 %")


def _table(
    title: str,
    shape: tuple[int, int],
    repeats: int,
    stages: Iterable[int],
    precisions: Iterable[str],
    total: Callable[[Times], float],
    goal: str,
) -> Table:
    updates = ("between mask updates", "share", "goal", "at a mask update", "share")
    table = table_with(title, ("ZeRO", "precision", "dense", *updates))
    for precision in precisions:
        for stage in stages:
            [(between, update)] = on_ranks(1, time_engine, stage, precision, shape, repeats)
            # Its step zeroes the newly pruned weights.
            at_update = update.pruning + update.step - between.step
            table.add_row(
                str(stage), precision, f"{total(between):.0f}",
                f"{between.pruning:.1f}", f"{between.pruning / total(between):.1%}", goal,
                f"{at_update:.0f}", f"{at_update / total(between):.0%}",
            )  # fmt: skip
    return table


def best_parts(steps: Iterable[Times]) -> Times:
    """Return the shortest time of each part."""
    return Times(*(min(times) for times in zip(*steps, strict=True)))


def time_engine(stage: int, precision: str, shape: tuple[int, int], repeats: int) -> tuple[Times, Times]:
    """Train some steps; return the best times of the steps between mask updates, and of those with one."""
    engine = bert_engine(stage, precision, repeats)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1000, 30_000, shape, generator=generator)
    labels = torch.zeros(shape[0], dtype=torch.int64)
    steps = [time_step(engine, tokens, labels) for _ in range(WARM_UP + 2 * repeats)]
    assert engine.pruner is not None
    assert engine.pruner.state.num_pruned == round(SPARSITY * engine.pruner.state.num_prunable)
    return best_parts(steps[WARM_UP + 1 :: 2]), best_parts(steps[WARM_UP::2])


def time_step(engine: PruningEngine, tokens: Tensor, labels: Tensor) -> Times:
    """Time one training step, with `PruningEngine.step` in its parts."""

    def forward_and_backward() -> None:
        engine.backward(engine(input_ids=tokens, labels=labels).loss)

    pruner = engine.pruner
    assert pruner is not None
    backward = milliseconds(forward_and_backward)
    number = engine.applied_steps
    with engine._guard.open():
        before = milliseconds(lambda: pruner.before_step(number))
        step = milliseconds(lambda: DeepSpeedEngine.step(engine))
        after = milliseconds(lambda: pruner.after_step(number, applied=engine.was_step_applied()))
    return Times(backward, before + after, step)


def bert_engine(stage: int, precision: str, updates: int) -> PruningEngine:
    """Return BERT-base with random weights in an engine with a shipped ds_config: fused AdamW, clipping at 1.0."""
    recipe = Recipe.model_validate(
        {
            "name": "bench",
            "budget": {"steps": 1000, "batch": 8},
            "pruning": {
                "sparsity": SPARSITY,
                "start": WARM_UP,
                "end": WARM_UP + 2 * (updates - 1),
                "updates": updates,
            },
            "learning_rate": {"peak": 1e-4},
            "precision": precision,
        }
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig())
    engine, *_ = dsprune.initialize(model=model, config=f"zero{stage}", recipe=recipe)
    return engine
