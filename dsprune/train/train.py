"""`dsprune train`: fine-tune, and prune on the way when the recipe says so."""

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from dsprune.checkpoint.sparse_start import MasksFrom
from dsprune.distillation.teachers import MicroBatch
from dsprune.errors import StoppedError
from dsprune.ranks.agreement import check_same, on_first_rank
from dsprune.ranks.collectives import barrier, world_comm
from dsprune.ranks.failures import Watchdog, explain_lost_ranks
from dsprune.ranks.ranks import Ranks, current_ranks
from dsprune.recipe import Recipe
from dsprune.recipe.recipe import settings_of
from dsprune.train.checkpointing import Checkpointer
from dsprune.train.evaluation import evaluate
from dsprune.train.metrics import Meter, step_metrics, update_metrics
from dsprune.train.resume import find_start, restore, run_folder
from dsprune.train.run_folder import RunFolder, write_start
from dsprune.train.setup import Parts, assemble
from dsprune.train.status_file import StatusFile
from dsprune.train.stopping import EXIT_CODE, Stops
from dsprune.train.tracking import Result, Tracker, open_tracker
from dsprune.utils.console import progress_bar, say
from dsprune.utils.versions import code_digest, package_versions
from dsprune.zero.launch import join_ranks

__all__ = ["train"]


@dataclass(frozen=True)
class Session:
    """What the loop works with, and whom it tells."""

    recipe: Recipe
    parts: Parts
    meter: Meter
    tracker: Tracker
    status: StatusFile
    checkpointer: Checkpointer
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
) -> RunFolder:
    """Run a recipe, from its model or a checkpoint to its run folder. Collective: every rank must call this.

    Args:
        recipe: what to do; an unfinished run of it is gone on with.
        ranks: this process among all.
        console: for a person who watches.
        resume: folder of a run or of a checkpoint to go on from.
        masks_from: what becomes of zeros that have no masks, of a checkpoint or of the model.
        stop_after: seconds after which to stop, with a checkpoint.

    Returns:
        The folder of the finished run.

    Raises:
        UserError: the recipe, its data and its ds_config do not go together; nothing has been trained yet.
        StoppedError: the run was asked to stop, and can go on from its newest checkpoint.
        RunFailedError: the run cannot go on.
    """
    join_ranks(ranks, recipe.timeout)
    with ExitStack() as stack:
        stack.enter_context(explain_lost_ranks())
        settings = {f"recipe {key}": value for key, value in settings_of(recipe).items()}
        check_same(ranks, {"dsprune's code": code_digest(), **package_versions(), **settings})
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
        stack.enter_context(explain_lost_ranks())  # once more, for the status
        checkpointer = Checkpointer(recipe.checkpoints, run, ranks, engine, meter, tracker, status, resumed)
        watchdog = stack.enter_context(Watchdog(ranks, recipe.timeout))
        session = Session(recipe, parts, meter, tracker, status, checkpointer, stops, watchdog)
        started = time.perf_counter()
        with progress_bar(console, shown=ranks.is_first) as progress:
            reason = _loop(session, parts.micro_batches(ranks.rank), progress)
        checkpointer.save()
        summary = _finish(session, run) | {"seconds": time.perf_counter() - started} if reason is None else {}
        tracker.close(0 if reason is None else EXIT_CODE)
        barrier()  # whoever ends first has the launcher end the others
        if reason is not None:
            raise StoppedError(
                f"{reason}: stopped at step {engine.applied_steps}; the same command goes on from there"
            )
        if ranks.is_first:
            run.finish(summary)
    if ranks.is_first:
        say(console, f"finished: {run.path}")
    return run


def _loop(session: Session, micro_batches: Iterator[MicroBatch], progress: Progress) -> str | None:
    """Take optimizer steps until the step is at the end of the timetable, or the reason to stop before."""
    recipe, parts, meter, tracker = session.recipe, session.parts, session.meter, session.tracker
    engine, timetable = parts.engine, parts.engine.timetable
    eval_every = max(1, recipe.tracking.eval_every.to_steps(timetable.steps_per_epoch, timetable.total_steps))
    bar = progress.add_task(recipe.name, total=timetable.total_steps)
    engine.train()
    while engine.applied_steps < timetable.total_steps:
        update = timetable.update_at(engine.applied_steps)
        for micro_batch in itertools.islice(micro_batches, parts.plan.accumulation):
            session.watchdog.beat(f"step {engine.applied_steps}")
            losses = parts.losses(micro_batch.to(engine.device))
            engine.backward(losses["loss"])
            engine.step()
            meter.add(losses)
        applied = engine.was_step_applied()
        meter.step(applied=applied)
        if applied:  # else overflow: the step stands still, and a mask update comes again
            step = engine.applied_steps
            progress.update(bar, completed=step)
            if update is not None:
                tracker.log(step, update_metrics(engine))
            if step % recipe.tracking.log_every == 0:
                tracker.log(step, numbers := step_metrics(engine, meter))
                session.status.update(
                    step=step,
                    phase=numbers["phase"],
                    loss=numbers["loss"],
                    sparsity=numbers["sparsity_prunable"],
                )
            if step % eval_every == 0 and step < timetable.total_steps:
                tracker.log(step, metrics := _evaluate(session))
                if session.checkpointer.evaluated(metrics):
                    session.checkpointer.save()
            if session.checkpointer.is_due():
                session.checkpointer.save()
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
        comm=world_comm(current_ranks()),
    )
    return {f"validation_{name}": value for name, value in metrics.items()}


def _finish(session: Session, run: RunFolder) -> dict[str, Any]:
    """Evaluate, and write the model. Collective: every rank must call this."""
    engine, metrics = session.parts.engine, _evaluate(session)
    session.watchdog.beat("the evaluation at the end")
    session.tracker.log(engine.applied_steps, {**metrics, **engine.sparsity()})
    session.status.update(step=engine.applied_steps, sparsity=engine.sparsity()["sparsity_prunable"])
    engine.save_model(run.model, session.parts.tokenizer)
    summary = {
        "recipe": session.recipe.name,
        "metrics": {name.removeprefix("validation_"): value for name, value in metrics.items()},
        "sparsity": {name.removeprefix("sparsity_"): value for name, value in engine.sparsity().items()},
        "steps": engine.applied_steps,
        "seed": session.recipe.seed,
    }
    tensors = {} if engine.pruner is None else engine.pruner.state.tensor_sparsity()
    session.tracker.finish(engine.applied_steps, Result(summary, tensors, run.model))
    return summary


def _known(parts: Parts, is_resumed: bool) -> dict[str, Any]:
    """What the status can say before the first step."""
    engine, timetable = parts.engine, parts.engine.timetable
    return {
        "step": engine.applied_steps,
        "total_steps": timetable.total_steps,
        "phase": timetable.phase_at(engine.applied_steps),
        "sparsity": engine.sparsity()["sparsity_prunable"],
        "checkpoint": f"global_step{engine.global_steps}" if is_resumed else None,
    }
