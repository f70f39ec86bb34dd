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
from bench.figures import table_with
from bench.tools import on_ranks
from dsprune.recipe import Recipe

__all__ = ["frameworks"]

BATCH, LENGTH, RATE = 32, 64, 1e-5
WARM_UP = 4  # steps; the mask updates are among them
ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"

DEEPSPEED = {
    "train_batch_size": BATCH,
    "gradient_clipping": 1.0,
    "optimizer": {"type": "AdamW", "params": {"torch_adam": True, "fused": True, "lr": RATE}},
    "zero_optimization": {"stage": 2},
    "bf16": {"enabled": ON_GPU},
}


def frameworks(repeats: int) -> Table:
    """Measure a step of each loop on one rank, from the same weights, with the same batch."""
    clock, precision = ("Milliseconds", "bf16") if ON_GPU else ("CPU milliseconds", "fp32")
    title = f"{clock} of a training step of {BATCH} x {LENGTH} tokens, MiniLM, ZeRO stage 2, {precision}"
    columns = ("loop", "ms", "quartiles", "compared with", "ms more", "quartiles", "share")
    table = table_with(f"{title}; medians of {repeats} rounds, and their quartiles", columns)
    [times] = on_ranks(1, time_rounds, repeats)
    for name, below in zip(STEPS, (None, *STEPS), strict=False):
        table.add_row(name, *spread(times[name]), *more(times, name, below))
    return table


def more(times: dict[str, list[float]], name: str, below: str | None) -> tuple[str, ...]:
    """Return the cells that compare a loop with its base loop, round by round."""
    if below is None:
        return ()
    differences = [one - other for one, other in zip(times[name], times[below], strict=True)]
    return below, *spread(differences, "+"), f"{median(differences) / median(times[below]):+.1%}"


def spread(values: list[float], sign: str = "") -> tuple[str, str]:
    """Return the median, and the quartiles."""
    first, middle, last = quantiles(values, n=4)
    return f"{middle:{sign}.1f}", f"{first:{sign}.1f} to {last:{sign}.1f}"


def time_rounds(repeats: int) -> dict[str, list[float]]:
    """Return the milliseconds of each loop's steps after the warm-up: CPU time, or on a GPU the time until its end.

    The loops take their steps alternately, so that other load on the machine affects them equally.
    """
    steps, times = {}, {name: [] for name in STEPS}
    for name, loop in STEPS.items():
        torch.manual_seed(0)
        steps[name] = loop(minilm(), batch())
    order = deque(STEPS)
    for number in range(WARM_UP + repeats):
        order.rotate()
        for name in order:
            started = seconds()
            steps[name]()
            if number >= WARM_UP:
                times[name].append(1000 * (seconds() - started))
    return times


def seconds() -> float:
    """Return the time in seconds: CPU time of this process, or wall-clock time after the GPU has finished."""
    if not ON_GPU:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def minilm() -> nn.Module:
    """Return a model of the demo's size, with random weights."""
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    return BertForSequenceClassification(config).to(DEVICE).train()


def batch() -> dict[str, Tensor]:
    """Return random tokens and labels."""
    return {
        "input_ids": torch.randint(1000, 30_000, (BATCH, LENGTH), device=DEVICE),
        "labels": torch.randint(2, (BATCH,), device=DEVICE),
    }


def in_torch(model: nn.Module, inputs: dict[str, Tensor]) -> Callable[[], None]:
    """Return a step in plain PyTorch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)

    def step() -> None:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=ON_GPU):
            loss = model(**inputs).loss
        loss.backward()
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
        "precision": "bf16" if ON_GPU else "fp32",
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
