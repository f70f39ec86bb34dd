"""`dsprune train`: fine-tune, and prune on the way when the recipe says so."""

import itertools
import time
from typing import Any

import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from dsprune.distributed.ranks import Ranks
from dsprune.engine.engine import PruningEngine
from dsprune.programs.evaluate import evaluate
from dsprune.programs.run import RunFolder
from dsprune.programs.status_file import StatusFile
from dsprune.programs.train.meter import Meter
from dsprune.programs.train.setup import Parts, assemble
from dsprune.programs.train.teachers import MicroBatch
from dsprune.programs.train.tracking import Tracker, open_tracker
from dsprune.pure.recipe import Recipe

__all__ = ["train"]


def train(recipe: Recipe, ranks: Ranks, console: Console) -> None:
    """Run a recipe, from its model to its run folder. Collective: every rank must call this.

    Raises:
        UserError: the recipe, its data and its ds_config do not go together; nothing has been trained yet.
    """
    run = RunFolder.for_recipe(recipe)
    parts = assemble(recipe, ranks, console)
    if ranks.is_first:
        run.begin(recipe, parts.engine.config)
    tracker = open_tracker(recipe, run, ranks)
    started = time.perf_counter()
    timetable = parts.engine.timetable
    known = {"step": 0, "total_steps": timetable.total_steps, "phase": timetable.phase_at(0)}
    with StatusFile(run.status, ranks, **known) as status:
        with _progress(console, shown=ranks.is_first) as progress:
            _loop(recipe, ranks, parts, tracker, status, progress)
        summary = _finish(recipe, run, parts, tracker) | {"seconds": time.perf_counter() - started}
        tracker.close()
        status.update(checkpoint=f"global_step{parts.engine.global_steps}")
        if ranks.is_first:
            run.finish(summary)
    if ranks.is_first:
        console.print(f"finished: {run.path}", markup=False, soft_wrap=True)


def _loop(
    recipe: Recipe, ranks: Ranks, parts: Parts, tracker: Tracker, status: StatusFile, progress: Progress
) -> None:
    """Take optimizer steps until the clock is at the end of the timetable."""
    engine, timetable = parts.engine, parts.engine.timetable
    eval_every = recipe.tracking.eval_every.to_steps(timetable.steps_per_epoch, timetable.total_steps)
    micro_batches = parts.micro_batches(ranks.rank)
    meter = Meter(engine.device)
    bar = progress.add_task(recipe.name, total=timetable.total_steps)
    engine.train()
    while engine.clock < timetable.total_steps:
        event = timetable.event_at(engine.clock)
        for micro_batch in itertools.islice(micro_batches, parts.plan.accumulation):
            loss = _loss(parts, micro_batch.to(engine.device))
            engine.backward(loss)
            engine.step()
            meter.add(loss)
        meter.step()
        if not engine.was_step_applied():  # overflow: the clock stands still, and an event comes again
            continue
        clock = engine.clock
        progress.update(bar, completed=clock)
        if event is not None:
            tracker.log(clock, _event_numbers(engine))
        if clock % recipe.tracking.log_every == 0:
            numbers = _step_numbers(engine, meter)
            tracker.log(clock, numbers)
            status.update(
                step=clock,
                phase=numbers["phase"],
                loss=numbers["loss"],
                sparsity=numbers["sparsity_prunable"],
            )
        if clock % max(1, eval_every) == 0 and clock < timetable.total_steps:
            tracker.log(clock, _evaluate(parts))


def _loss(parts: Parts, micro_batch: MicroBatch) -> Tensor:
    """The task's loss, or what the lesson makes of it."""
    outputs = parts.engine(**micro_batch.batch)
    if parts.lesson is None:
        return outputs.loss
    return parts.lesson.loss(outputs, micro_batch, parts.engine.clock)


def _step_numbers(engine: PruningEngine, meter: Meter) -> dict[str, Any]:
    """What is logged of the steps since the last time. Collective: every rank must call this."""
    taken = engine.clock - 1  # the engine's own learning rate is the next step's already
    return {
        **meter.read(),
        "learning_rate": engine.lr_scheduler.base_lrs[0] * engine.timetable.lr_multiplier(taken),
        "gradient_norm": float(engine.get_global_grad_norm() or 0.0),
        "phase": engine.timetable.phase_at(taken),
        **engine.sparsity(),
    }


def _event_numbers(engine: PruningEngine) -> dict[str, Any]:
    """What is logged of an event. Collective: every rank must call this."""
    pruner = engine.pruner
    assert pruner is not None
    assert pruner.last_event is not None
    return {
        "event_sparsity": pruner.last_event.event.sparsity,
        "event_seconds": pruner.last_event.seconds,
        "event_bytes_sent": pruner.last_event.bytes_sent,
        "mask_bytes": pruner.mask_bytes(),
        **engine.sparsity(),
        "tensor_sparsity": pruner.tensor_sparsity(),
    }


def _evaluate(parts: Parts) -> dict[str, float]:
    """The task's metrics on the validation examples. Collective: every rank must call this."""
    metrics = evaluate(
        parts.engine.deepspeed,
        parts.task,
        parts.validation,
        parts.collate,
        batch_size=2 * parts.plan.micro_batch,
        device=parts.engine.device,
        group=dist.group.WORLD,
    )
    return {f"validation_{name}": value for name, value in metrics.items()}


def _finish(recipe: Recipe, run: RunFolder, parts: Parts, tracker: Tracker) -> dict[str, Any]:
    """Evaluate, write checkpoint and model. Collective: every rank must call this."""
    engine, metrics = parts.engine, _evaluate(parts)
    tracker.log(engine.clock, {**metrics, **engine.sparsity()})
    engine.save_checkpoint(str(run.checkpoints))
    engine.save_model(run.model, parts.tokenizer)
    return {
        "recipe": recipe.name,
        "metrics": {name.removeprefix("validation_"): value for name, value in metrics.items()},
        "sparsity": {name.removeprefix("sparsity_"): value for name, value in engine.sparsity().items()},
        "steps": engine.clock,
        "seed": recipe.seed,
    }


def _progress(console: Console, *, shown: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not (shown and console.is_terminal))
