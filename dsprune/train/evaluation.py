"""Evaluation of a model on a task's validation data; `dsprune eval` runs it on a model folder."""

import sys
from collections.abc import Iterable
from typing import Any

import torch
from datasets import Dataset
from rich.console import Console
from rich.progress import track
from torch import nn

from dsprune.model.pretrained import load_config, load_tokenizer
from dsprune.ranks.batch_order import EvaluationBatch, evaluation_batches
from dsprune.ranks.collectives import Comm, gather_in_order, world_comm
from dsprune.ranks.group import process_group
from dsprune.ranks.ranks import Ranks
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.build import build_task
from dsprune.tasks.examples import Collate, on_device
from dsprune.tasks.remarks import Examples, remarks_on
from dsprune.tasks.source import say_once
from dsprune.tasks.task import Task

__all__ = ["evaluate", "evaluate_command", "evaluate_model"]


def evaluate(
    model: nn.Module,
    task: Task,
    dataset: Dataset,
    collate: Collate,
    *,
    batch_size: int,
    device: torch.device,
    comm: Comm | None = None,
    has_bar: bool = True,
) -> dict[str, float]:
    """Return the task's metrics of a model on prepared examples, the main one first, the same on every rank.

    Collective: every rank of `comm` must call this.

    Args:
        model: a module or a DeepSpeed engine; its mode (training or evaluation) is restored.
        task: the task.
        dataset: the examples, from `task.prepare`.
        collate: from `task.collate`.
        batch_size: examples of one forward pass on one rank.
        device: device of the model.
        comm: ranks that share the work; None = only this process.
        has_bar: whether to show a bar on a terminal.
    """
    comm = comm or Comm()
    batches = evaluation_batches(dataset["length"][:], batch_size, comm.rank, comm.size)
    predictions: dict[int, Any] = {}
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in _progress(batches, shown=has_bar and comm.rank == 0):
                features = collate([dataset[example] for example in batch.examples])
                predicted = task.predict(model, on_device(features, device))
                if batch.counts:
                    predictions.update(zip(batch.examples, predicted, strict=True))
    finally:
        model.train(training)
    return task.score(gather_in_order(predictions, comm), dataset)


def evaluate_model(
    path: str, settings: TaskSettings, *, device: torch.device, batch_size: int = 32, comm: Comm | None = None
) -> dict[str, float]:
    """Return the task's metrics of a trained model.

    Collective: every rank of `comm` must call this.

    Args:
        path: model folder or hub name.
        settings: the recipe's section `task`.
        device: device for the model.
        batch_size: examples of one forward pass on one rank.
        comm: ranks that share the work; None = this process alone.

    Raises:
        UserError: the model or the data cannot be read, or do not fit together.
    """
    tokenizer = load_tokenizer(path)
    task = build_task(settings).for_model(load_config(path)).for_tokenizer(tokenizer)
    model: nn.Module = task.build_model(path, tokenizer, new_head=False)
    dataset = task.prepare("validation", tokenizer)
    for remark in remarks_on(Examples(task, "validation", dataset), tokenizer):
        say_once(remark)
    return evaluate(
        model.to(device),
        task,
        dataset,
        task.collate(tokenizer),
        batch_size=batch_size,
        device=device,
        comm=comm,
    )


def evaluate_command(
    path: str, settings: TaskSettings, batch_size: int, ranks: Ranks
) -> dict[str, float] | None:
    """Run `evaluate_model` on the ranks of a launcher; return the metrics on the first rank, None on others.

    Collective: every rank must call this.
    """
    with process_group(ranks) as device:
        metrics = evaluate_model(path, settings, device=device, batch_size=batch_size, comm=world_comm())
    return metrics if ranks.is_first else None


def _progress(batches: list[EvaluationBatch], *, shown: bool) -> Iterable[EvaluationBatch]:
    if not (shown and sys.stderr.isatty()):
        return batches
    return track(batches, description="evaluate", console=Console(stderr=True), transient=True)
