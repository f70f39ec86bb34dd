"""`dsprune train`: fine-tune a model, and prune it during training if the recipe has a pruning section."""

import itertools
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from dsprune.checkpoint.model_card import write_card
from dsprune.checkpoint.sparse_start import MasksFrom
from dsprune.errors import EXIT_STOPPED, StoppedError
from dsprune.ranks.agreement import check_same, on_first_rank
from dsprune.ranks.collectives import barrier, world_comm
from dsprune.ranks.failures import Watchdog, explain_lost_ranks
from dsprune.ranks.group import current_ranks
from dsprune.ranks.ranks import Ranks
from dsprune.recipe import Recipe
from dsprune.recipe.recipe import settings_of
from dsprune.train.checkpointing import Checkpointer
from dsprune.train.client_state import ClientState
from dsprune.train.display import Display, describe_metrics
from dsprune.train.evaluation import evaluate
from dsprune.train.metrics import Meter, step_metrics, update_metrics
from dsprune.train.preflight import Prepared, preflight
from dsprune.train.resume import check_vocabulary, data_remarks, find_start_point, restore, run_folder
from dsprune.train.run_folder import RunFolder, made_by
from dsprune.train.setup import Parts, assemble
from dsprune.train.status_file import StatusFile
from dsprune.train.stopping import StopRequests
from dsprune.train.tracking import Tracker
from dsprune.utils.console import say, waiting
from dsprune.utils.installation import code_digest, package_versions
from dsprune.zero.launch import describe_joining, join_ranks
from dsprune.zero.limits import check_device

__all__ = ["train"]


@dataclass(frozen=True)
class Session:
    """A run in progress: its parts, and the objects that record, save and stop it."""

    recipe: Recipe
    run: RunFolder
    parts: Parts
    meter: Meter
    tracker: Tracker
    status: StatusFile
    checkpointer: Checkpointer
    stops: StopRequests
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
    """Train by a recipe, and return the folder of the finished run. Collective: every rank must call this.

    An unfinished run of the recipe is resumed.

    Args:
        recipe: the recipe.
        ranks: this process among all.
        console: shows start, progress and end; quiet on ranks other than the first.
        resume: folder of a run or of a checkpoint to resume from.
        masks_from: how to treat zeros without masks, in a checkpoint or the model.
        stop_after: seconds after which to stop, with a checkpoint.

    Raises:
        UserError: the recipe, its data and its ds_config do not fit together; nothing has been trained.
        StoppedError: the run was stopped early, and can be resumed from its newest checkpoint.
        RunFailedError: training failed.
    """
    find_start_point(recipe, run_folder(recipe, resume), resume)  # its errors come first
    with waiting(console, "reading and encoding the data"):
        prepared = preflight(recipe, ranks)
        check_device(prepared.config)
    with waiting(console, describe_joining(ranks)):
        join_ranks(ranks, recipe.timeout)
    with explain_lost_ranks(), ExitStack() as stack:
        session = _open_session(stack, recipe, prepared, console, resume, masks_from, stop_after)
        started = time.perf_counter()
        with Display(console, recipe.name, session.parts.engine.timetable) as display:
            reason = _take_steps(session, display)
            with display.doing("saving a checkpoint"):
                session.checkpointer.save()
            summary = {} if reason else _finish(session, display)
            summary["seconds"] = time.perf_counter() - started
        session.tracker.close(EXIT_STOPPED if reason else 0)
        barrier()  # when the first rank ends, the launcher ends the others
        if reason:
            step = session.parts.engine.applied_steps
            raise StoppedError(f"{reason}: stopped at step {step}; run the same command to resume")
        if ranks.is_first:
            session.run.finish(summary)
            write_card(session.run.model, made_by(session.run))
    say(console, f"finished: {session.run.path}: {describe_metrics(summary['metrics'])}")
    return session.run


def _open_session(
    stack: ExitStack,
    recipe: Recipe,
    prepared: Prepared,
    console: Console,
    resume: Path | None,
    masks_from: MasksFrom | None,
    stop_after: float | None,
) -> Session:
    """Prepare a run up to its first step; `stack` closes what is opened. Collective: every rank must call this."""
    settings = {f"recipe {key}": value for key, value in settings_of(recipe).items()}
    ranks = current_ranks()
    check_same({"dsprune's code": code_digest(), **package_versions(), **settings})
    run = on_first_rank(lambda: run_folder(recipe, resume))
    on_first_rank(lambda: stack.enter_context(run.locked()))
    stops = stack.enter_context(StopRequests(run, recipe.checkpoints.margin, stop_after))
    start = on_first_rank(lambda: find_start_point(recipe, run, resume))
    check_vocabulary(start, prepared.vocabulary)
    parts = assemble(recipe, prepared, console)
    engine, meter = parts.engine, Meter(parts.engine.device, parts.loss_names)
    if start.is_own:
        for remark in on_first_rank(lambda: data_remarks(run, parts.digests)):
            say(console, remark)
    resumed = restore(engine, meter, start, Path(prepared.path), masks_from, console)
    if ranks.is_first:
        if prepared.vocabulary is not None:
            prepared.vocabulary.write(run.vocabulary)
        run.begin(recipe, engine.config, is_new=not start.is_own)
        run.write_start(engine.timetable, ranks.world_size, str(engine.device), parts.digests)
    tracker = Tracker(recipe, run, engine.timetable, ranks, resumed or ClientState())
    # For a run that fails; others have already closed their tracker.
    stack.callback(tracker.close, exit_code=1)
    step = engine.applied_steps
    status = StatusFile(
        run.status,
        ranks,
        step=step,
        total_steps=engine.timetable.total_steps,
        phase=engine.timetable.phase_at(step),
        sparsity=engine.sparsity()["sparsity_prunable"],
        checkpoint=f"global_step{engine.global_steps}" if start.tags else None,
    )
    stack.enter_context(status)
    stack.enter_context(explain_lost_ranks())  # inside the status, which records the explained error
    checkpointer = Checkpointer(recipe.checkpoints, run, engine, meter, tracker, status, resumed)
    watchdog = stack.enter_context(Watchdog(ranks, recipe.timeout, status.fail))
    return Session(recipe, run, parts, meter, tracker, status, checkpointer, stops, watchdog)


def _take_steps(session: Session, display: Display) -> str | None:
    """Take optimizer steps up to the end of the timetable. Collective: every rank must call this.

    Returns:
        The reason to stop early; None at the end.
    """
    parts, engine, timetable = session.parts, session.parts.engine, session.parts.engine.timetable
    micro_batches = parts.micro_batches()
    display.step(engine.applied_steps)
    engine.train()
    while engine.applied_steps < timetable.total_steps:
        update = timetable.update_at(engine.applied_steps)
        for micro_batch in itertools.islice(micro_batches, parts.prepared.plan.accumulation):
            session.watchdog.beat(f"step {engine.applied_steps}")
            losses = parts.losses(micro_batch.to(engine.device))
            engine.backward(losses["loss"])
            engine.step()
            session.meter.add(losses)
        session.meter.step(applied=engine.was_step_applied())
        if engine.was_step_applied():  # after an overflow, the same step and its mask update come again
            _after_step(session, display, is_update=update is not None)
        if reason := session.stops.agreed():
            return reason
    return None


def _after_step(session: Session, display: Display, *, is_update: bool) -> None:
    """Log, evaluate and save what is due after an applied step. Collective: every rank must call this."""
    recipe, engine, checkpointer = session.recipe, session.parts.engine, session.checkpointer
    step, total = engine.applied_steps, engine.timetable.total_steps
    display.step(step)
    if is_update:
        session.tracker.log(step, update_metrics(engine))
    if step % recipe.tracking.log_every == 0:
        display.log(step, _log_steps(session))
    eval_every = max(1, recipe.tracking.eval_every.to_steps(engine.timetable.steps_per_epoch, total))
    if step % eval_every == 0 and step < total:
        with display.doing("evaluating"):
            session.tracker.log(step, metrics := _evaluate(session))
            if checkpointer.update_best(metrics):
                checkpointer.save()
    if checkpointer.is_due():
        with display.doing("saving a checkpoint"):
            checkpointer.save()


def _log_steps(session: Session) -> dict[str, Any]:
    """Log the steps since the last call, and return their metrics. Collective: every rank must call this."""
    engine, step = session.parts.engine, session.parts.engine.applied_steps
    metrics = step_metrics(engine, session.meter, session.recipe.learning_rate.scale)
    session.tracker.log(step, metrics)
    sparsity = metrics["sparsity_prunable"]
    session.status.update(step=step, phase=metrics["phase"], loss=metrics["loss"], sparsity=sparsity)
    return metrics


def _evaluate(session: Session) -> dict[str, float]:
    """Return the metrics of the model on the validation examples. Collective: every rank must call this."""
    parts = session.parts
    metrics = evaluate(
        parts.engine,
        parts.prepared.task,
        parts.prepared.validation,
        session.watchdog.beating(parts.collate, "a batch of the evaluation"),
        batch_size=2 * parts.prepared.plan.micro_batch,
        device=parts.engine.device,
        comm=world_comm(),
        has_bar=False,  # the run has one
    )
    return {f"validation_{name}": value for name, value in metrics.items()}


def _finish(session: Session, display: Display) -> dict[str, Any]:
    """Evaluate the model and write it; return the summary of the run. Collective: every rank must call this."""
    engine = session.parts.engine
    with display.doing("evaluating"):
        metrics = _evaluate(session)
    session.watchdog.beat("the evaluation at the end")
    session.tracker.log(engine.applied_steps, {**metrics, **engine.sparsity()})
    session.status.update(
        step=engine.applied_steps,
        phase=engine.timetable.phase_at(engine.applied_steps - 1),
        sparsity=engine.sparsity()["sparsity_prunable"],
    )
    with display.doing("writing the model"):
        engine.save_model(session.run.model, session.parts.prepared.tokenizer)
    summary = {
        "recipe": session.recipe.name,
        "metrics": {name.removeprefix("validation_"): value for name, value in metrics.items()},
        "sparsity": {name.removeprefix("sparsity_"): value for name, value in engine.sparsity().items()},
        "steps": engine.applied_steps,
        "seed": session.recipe.seed,
        "validation_examples": len(session.parts.prepared.validation),
    }
    tensors = {} if engine.pruner is None else engine.pruner.state.tensor_sparsity()
    if engine.pruner is not None and engine.pruner.state.regrows:
        summary["share_regrown"] = engine.pruner.state.share_regrown
    session.tracker.finish(engine.applied_steps, summary, tensors, session.run.model)
    return summary
