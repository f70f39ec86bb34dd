"""The cost of the framework and of the masks: the demo's step in plain PyTorch, plain DeepSpeed and dsprune."""

import time
from collections import deque
from collections.abc import Callable
from statistics import median, quantiles

import deepspeed
import torch
from rich.table import Table
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

import dsprune
from bench.tools import on_ranks
from dsprune.recipe import Recipe

__all__ = ["frameworks"]

BATCH, LENGTH, RATE = 32, 64, 1e-5
WARM_UP = 4  # steps; the mask updates are among them

DEEPSPEED = {
    "train_batch_size": BATCH,
    "gradient_clipping": 1.0,
    "optimizer": {"type": "AdamW", "params": {"torch_adam": True, "fused": True, "lr": RATE}},
    "zero_optimization": {"stage": 2},
}


def frameworks(repeats: int) -> Table:
    """Measure a step of each on one rank, from the same weights, with the same batch."""
    title = f"CPU milliseconds of a training step of {BATCH} x {LENGTH} tokens, MiniLM, ZeRO stage 2, fp32"
    table = Table(title=f"{title}; medians of {repeats} rounds, and their quartiles")
    for column in ("loop", "ms", "quartiles", "compared with", "ms more", "quartiles", "share"):
        table.add_column(column, justify="right")
    [times] = on_ranks(1, time_rounds, repeats)
    for name, below in zip(STEPS, (None, *STEPS), strict=False):
        table.add_row(name, *spread(times[name]), *more(times, name, below))
    return table


def more(times: dict[str, list[float]], name: str, below: str | None) -> tuple[str, ...]:
    """Return the cells that compare a loop with the one that it builds on, round by round."""
    if below is None:
        return ()
    differences = [one - other for one, other in zip(times[name], times[below], strict=True)]
    return below, *spread(differences, "+"), f"{median(differences) / median(times[below]):+.1%}"


def spread(values: list[float], sign: str = "") -> tuple[str, str]:
    """Return the median, and the quartiles."""
    first, middle, last = quantiles(values, n=4)
    return f"{middle:{sign}.1f}", f"{first:{sign}.1f} to {last:{sign}.1f}"


def time_rounds(repeats: int) -> dict[str, list[float]]:
    """Return the CPU milliseconds of each loop's steps after the warm-up.

    The loops take their steps in turns, so that what else the machine does disturbs all of them alike.
    """
    steps, times = {}, {name: [] for name in STEPS}
    for name, loop in STEPS.items():
        torch.manual_seed(0)
        steps[name] = loop(minilm(), batch())
    order = deque(STEPS)
    for number in range(WARM_UP + repeats):
        order.rotate()
        for name in order:
            started = time.process_time()
            steps[name]()
            if number >= WARM_UP:
                times[name].append(1000 * (time.process_time() - started))
    return times


def minilm() -> nn.Module:
    """Return a model of the demo's size, with random weights."""
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    return BertForSequenceClassification(config).train()


def batch() -> dict[str, Tensor]:
    """Return random tokens and labels."""
    return {"input_ids": torch.randint(1000, 30_000, (BATCH, LENGTH)), "labels": torch.randint(2, (BATCH,))}


def in_torch(model: nn.Module, inputs: dict[str, Tensor]) -> Callable[[], None]:
    """Return a step in plain PyTorch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)

    def step() -> None:
        model(**inputs).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def in_deepspeed(model: nn.Module, inputs: dict[str, Tensor]) -> Callable[[], None]:
    """Return a step in plain DeepSpeed."""
    engine, *_ = deepspeed.initialize(model=model, config=DEEPSPEED)
    return engine_step(engine, inputs)


def in_dsprune(model: nn.Module, inputs: dict[str, Tensor], *, sparse: bool) -> Callable[[], None]:
    """Return a step of a dense or a sparse recipe, whose weights are pruned in the warm-up."""
    settings = {
        "name": "bench",
        "budget": {"steps": 1000, "batch": BATCH},
        "learning_rate": {"peak": RATE},
        "precision": "fp32",
    }
    if sparse:
        settings["pruning"] = {"sparsity": 0.9, "start": 1, "end": 2, "updates": 2}
    engine, *_ = dsprune.initialize(model=model, config=DEEPSPEED, recipe=Recipe.model_validate(settings))
    return engine_step(engine, inputs)


def engine_step(engine: deepspeed.DeepSpeedEngine, inputs: dict[str, Tensor]) -> Callable[[], None]:
    """Return a step of an engine."""

    def step() -> None:
        engine.backward(engine(**inputs).loss)
        engine.step()

    return step


STEPS = {
    "PyTorch": in_torch,
    "DeepSpeed": in_deepspeed,
    "dsprune, dense": lambda model, inputs: in_dsprune(model, inputs, sparse=False),
    "dsprune, 90 % sparse": lambda model, inputs: in_dsprune(model, inputs, sparse=True),
}
