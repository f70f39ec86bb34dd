"""`dsprune train`: fine-tune, and prune on the way when the recipe says so."""

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dsprune.distributed.lost import lost_ranks_explained
from dsprune.distributed.ranks import Ranks
from dsprune.distributed.together import on_first_rank
from dsprune.engine.launch import join_ranks
from dsprune.engine.sparse_start import MasksFrom
from dsprune.errors import StoppedError
from dsprune.programs.evaluate import evaluate
from dsprune.programs.report.report import report_run
from dsprune.programs.run import RunFolder
from dsprune.programs.start import write_start
from dsprune.programs.status_file import StatusFile
from dsprune.programs.train.keeper import Keeper
from dsprune.programs.train.meter import Meter
from dsprune.programs.train.numbers import event_numbers, step_numbers
from dsprune.programs.train.resume import find_start, restore, run_folder
from dsprune.programs.train.same import check_same, software
from dsprune.programs.train.setup import Parts, assemble
from dsprune.programs.train.stops import EXIT_CODE, Stops
from dsprune.programs.train.teachers import MicroBatch
from dsprune.programs.train.tracking import Result, Tracker, open_tracker
from dsprune.programs.train.watchdog import Watchdog
from dsprune.pure.recipe import Recipe
from dsprune.pure.recipe.settings import settings_of

__all__ = ["train"]


@dataclass(frozen=True)
class Session:
    """What the loop works with, and whom it tells."""

    recipe: Recipe
    parts: Parts
    meter: Meter
    tracker: Tracker
    status: StatusFile
    keeper: Keeper
    stops: Stops
    watchdog: Watchdog


def train(
    recipe: Recipe,
    ranks: Ranks,
    console: Console,
    *,
    resume: Path | None = None,
    masks_from: MasksFrom | None = None,
    stop_after: float | None = None,
) -> None:
    """Run a recipe, from its model or a checkpoint to its run folder. Collective: every rank must call this.

    Args:
        recipe: what to do; an unfinished run of it is gone on with.
        ranks: this process among all.
        console: for a person who watches.
        resume: folder of a run or of a checkpoint to go on from.
        masks_from: what becomes of zeros that have no masks, of a checkpoint or of the model.
        stop_after: seconds after which to stop, with a checkpoint.

    Raises:
        UserError: the recipe, its data and its ds_config do not go together; nothing has been trained yet.
        StoppedError: the run was asked to stop, and can go on from its newest checkpoint.
        RunFailedError: the run cannot go on.
    """
    join_ranks(ranks, recipe.timeout)
    with ExitStack() as stack:
        stack.enter_context(lost_ranks_explained())
        check_same(ranks, software() | {f"recipe {key}": v for key, v in settings_of(recipe).items()})
        run = on_first_rank(ranks, lambda: run_folder(recipe, resume))
        on_first_rank(ranks, lambda: stack.enter_context(run.locked()) and None)
        stops = stack.enter_context(Stops(ranks, run, recipe.checkpoints.margin, stop_after))
        start = on_first_rank(ranks, lambda: find_start(recipe, run, resume))
        parts = assemble(recipe, ranks, console)
        engine, meter = parts.engine, Meter(parts.engine.device, parts.loss_names)
        resumed = restore(engine, meter, start, parts.model, masks_from, ranks, console)
        if ranks.is_first:
            run.begin(recipe, engine.config, anew=not start.own)
            write_start(run.start, engine.timetable, ranks.world_size, str(engine.device))
        tracker = open_tracker(recipe, run, engine.timetable, ranks, resumed)
        stack.callback(tracker.close, exit_code=1)  # of a run that fails; else it is closed already
        status = stack.enter_context(StatusFile(run.status, ranks, **_known(parts, bool(start.tags))))
        stack.enter_context(lost_ranks_explained())  # once more, for the status
        keeper = Keeper(recipe.checkpoints, run, ranks, engine, meter, tracker, status, resumed)
        watchdog = stack.enter_context(Watchdog(ranks, recipe.timeout))
        session = Session(recipe, parts, meter, tracker, status, keeper, stops, watchdog)
        started = time.perf_counter()
        with _progress(console, shown=ranks.is_first) as progress:
            reason = _loop(session, parts.micro_batches(ranks.rank), progress)
        keeper.save()
        summary = _finish(session, run) | {"seconds": time.perf_counter() - started} if reason is None else {}
        tracker.close(0 if reason is None else EXIT_CODE)
        dist.barrier()  # whoever ends first has the launcher end the others
        if reason is not None:
            raise StoppedError(
                f"{reason}: stopped at step {engine.clock}; the same command goes on from there"
            )
        if ranks.is_first:
            run.finish(summary)
            report_run(run.path)
    if ranks.is_first:
        console.print(f"finished: {run.path}", markup=False, soft_wrap=True)


def _loop(session: Session, micro_batches: Iterator[MicroBatch], progress: Progress) -> str | None:
    """Take optimizer steps until the clock is at the end of the timetable, or the reason to stop before."""
    recipe, parts, meter, tracker = session.recipe, session.parts, session.meter, session.tracker
    engine, timetable = parts.engine, parts.engine.timetable
    eval_every = max(1, recipe.tracking.eval_every.to_steps(timetable.steps_per_epoch, timetable.total_steps))
    bar = progress.add_task(recipe.name, total=timetable.total_steps)
    engine.train()
    while engine.clock < timetable.total_steps:
        event = timetable.event_at(engine.clock)
        for micro_batch in itertools.islice(micro_batches, parts.plan.accumulation):
            session.watchdog.beat(f"step {engine.clock}")
            losses = parts.losses(micro_batch.to(engine.device))
            engine.backward(losses["loss"])
            engine.step()
            meter.add(losses)
        applied = engine.was_step_applied()
        meter.step(applied=applied)
        if applied:  # else overflow: the clock stands still, and an event comes again
            clock = engine.clock
            progress.update(bar, completed=clock)
            if event is not None:
                tracker.log(clock, event_numbers(engine))
            if clock % recipe.tracking.log_every == 0:
                tracker.log(clock, numbers := step_numbers(engine, meter))
                session.status.update(
                    step=clock,
                    phase=numbers["phase"],
                    loss=numbers["loss"],
                    sparsity=numbers["sparsity_prunable"],
                )
            if clock % eval_every == 0 and clock < timetable.total_steps:
                tracker.log(clock, metrics := _evaluate(session))
                if session.keeper.evaluated(metrics):
                    session.keeper.save()
            if session.keeper.is_due():
                session.keeper.save()
        if reason := session.stops.agreed():
            return reason
    return None


def _evaluate(session: Session) -> dict[str, float]:
    """The task's metrics on the validation examples. Collective: every rank must call this."""
    parts = session.parts
    metrics = evaluate(
        parts.engine.deepspeed,
        parts.task,
        parts.validation,
        session.watchdog.beating(parts.collate, "a batch of the evaluation"),
        batch_size=2 * parts.plan.micro_batch,
        device=parts.engine.device,
        group=dist.group.WORLD,
    )
    return {f"validation_{name}": value for name, value in metrics.items()}


def _finish(session: Session, run: RunFolder) -> dict[str, Any]:
    """Evaluate, and write the model. Collective: every rank must call this."""
    engine, metrics = session.parts.engine, _evaluate(session)
    session.watchdog.beat("the evaluation at the end")
    session.tracker.log(engine.clock, {**metrics, **engine.sparsity()})
    session.status.update(step=engine.clock, sparsity=engine.sparsity()["sparsity_prunable"])
    engine.save_model(run.model, session.parts.tokenizer)
    summary = {
        "recipe": session.recipe.name,
        "metrics": {name.removeprefix("validation_"): value for name, value in metrics.items()},
        "sparsity": {name.removeprefix("sparsity_"): value for name, value in engine.sparsity().items()},
        "steps": engine.clock,
        "seed": session.recipe.seed,
    }
    tensors = {} if engine.pruner is None else engine.pruner.tensor_sparsity()
    session.tracker.finish(engine.clock, Result(summary, tensors, run.model))
    return summary


def _known(parts: Parts, is_resumed: bool) -> dict[str, Any]:
    """What the status can say before the first step."""
    engine, timetable = parts.engine, parts.engine.timetable
    return {
        "step": engine.clock,
        "total_steps": timetable.total_steps,
        "phase": timetable.phase_at(engine.clock),
        "sparsity": engine.sparsity()["sparsity_prunable"],
        "checkpoint": f"global_step{engine.global_steps}" if is_resumed else None,
    }


def _progress(console: Console, *, shown: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not (shown and console.is_terminal))
