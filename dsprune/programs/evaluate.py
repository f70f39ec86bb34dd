"""The metrics of a model on a task's validation data: the body of `dsprune eval`."""

import sys
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from datasets import Dataset
from rich.console import Console
from rich.progress import track
from torch import nn

from dsprune.distributed.evaluation import EvaluationBatch, evaluation_batches, gather_in_order
from dsprune.distributed.ranks import Ranks
from dsprune.tasks.pretrained import load_config, load_tokenizer
from dsprune.tasks.registry import build_task
from dsprune.tasks.task import Collate, Task, TaskSettings, on_device

__all__ = ["evaluate", "evaluate_command", "evaluate_model"]


def evaluate(
    model: nn.Module,
    task: Task,
    dataset: Dataset,
    collate: Collate,
    *,
    batch_size: int,
    device: torch.device,
    group: dist.ProcessGroup | None = None,
) -> dict[str, float]:
    """The task's metrics of a model on prepared examples, the headline first, the same on every rank.

    Collective: every rank of `group` must call this.

    Args:
        model: a module, or a DeepSpeed engine; it is left in the mode (training or not) that it was in.
        task: the task.
        dataset: the examples, as `task.prepare` makes them.
        collate: as `task.collate` makes it.
        batch_size: examples of one forward pass on one rank.
        device: where the model is.
        group: ranks to share the work with; None = this process does it all.
    """
    rank, world_size = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
    batches = evaluation_batches(dataset["length"][:], batch_size, rank, world_size)
    predictions: dict[int, Any] = {}
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in _progress(batches, shown=rank == 0):
                features = collate([dataset[example] for example in batch.examples])
                predicted = task.predict(model, on_device(features, device))
                if batch.counts:
                    predictions.update(zip(batch.examples, predicted, strict=True))
    finally:
        model.train(training)
    return task.score(gather_in_order(predictions, group), dataset)


def evaluate_model(
    path: str,
    settings: TaskSettings,
    *,
    device: torch.device,
    tokenizer_path: str | None = None,
    batch_size: int = 32,
    group: dist.ProcessGroup | None = None,
) -> dict[str, float]:
    """The metrics of a model folder, or model on the hub, that was trained for the task.

    Collective: every rank of `group` must call this.

    Raises:
        UserError: the model or the data cannot be read, or do not belong together.
    """
    tokenizer = load_tokenizer(tokenizer_path or path)
    task = build_task(settings).for_model(load_config(path)).for_tokenizer(tokenizer)
    model: nn.Module = task.build_model(path, tokenizer, new_head=False)
    dataset = task.prepare("validation", tokenizer)
    return evaluate(
        model.to(device),
        task,
        dataset,
        task.collate(tokenizer),
        batch_size=batch_size,
        device=device,
        group=group,
    )


def evaluate_command(
    path: str, settings: TaskSettings, batch_size: int, ranks: Ranks
) -> dict[str, float] | None:
    """`evaluate_model` on the ranks of a launcher; the metrics on the first rank, None on the others.

    Collective: every rank must call this.
    """
    accelerator = torch.accelerator.current_accelerator()
    device = torch.device("cpu") if accelerator is None else torch.device(accelerator.type, ranks.local_rank)
    if ranks.world_size == 1:
        return evaluate_model(path, settings, device=device, batch_size=batch_size)
    if accelerator is not None:
        torch.accelerator.set_device_index(ranks.local_rank)
    dist.init_process_group(dist.get_default_backend_for_device(device))
    try:
        metrics = evaluate_model(path, settings, device=device, batch_size=batch_size, group=dist.group.WORLD)
    finally:
        dist.destroy_process_group()
    return metrics if ranks.is_first else None


def _progress(batches: list[EvaluationBatch], *, shown: bool) -> Iterable[EvaluationBatch]:
    if not (shown and sys.stderr.isatty()):
        return batches
    return track(batches, description="evaluate", console=Console(stderr=True), transient=True)
