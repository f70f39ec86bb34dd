"""The report of one run."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import yaml

from dsprune.report.blocks import Block, Code, Fact, Page, Section, Text
from dsprune.report.distillation import distillation_blocks
from dsprune.report.layers import layer_map
from dsprune.report.origin import command_of, origin_of
from dsprune.report.runs import Run
from dsprune.report.table import MISSING, Table, percent
from dsprune.report.timeline import timeline_picture
from dsprune.schedule import MaskUpdate

__all__ = ["page_of_run"]

STATES = {
    "finished": "The run went to its end.",
    "running": "The run is on its way, or was killed without a chance to say so.",
    "stopped": "The run was stopped with a checkpoint, and can be resumed.",
    "failed": "The run failed.",
    "unfinished": "The run has not come to its end: it is on its way, or was killed.",
}


def page_of_run(run: Run, audit: Text | None, extra: Sequence[Section] = ()) -> Page:
    """All that a run's folder tells.

    Args:
        run: the run.
        audit: what the audit says of it; None = it was not asked.
        extra: sections that others add.
    """
    sections = [
        Section("Timeline", tuple(_timeline(run))),
        Section("Layers", tuple(_layers(run))),
        *([Section("Distillation", distillation_blocks(run))] if run.recipe.distillation else []),
        *extra,
        *([Section("Audit", (audit,))] if audit is not None else []),
        Section("How it was made", tuple(_making(run))),
    ]
    return Page(run.name, run.state, _lead(run), tuple(_facts(run)), tuple(sections), origin_of([run]))


def _lead(run: Run) -> str:
    model, task = run.recipe.model, run.recipe.task
    what = f"{model.path} on {task.name}. " if model and task else ""
    reason = f" {str(run.status['reason']).rstrip('.')}." if run.status.get("reason") else ""
    return what + STATES.get(run.state, "") + reason


def _facts(run: Run) -> Iterator[Fact]:
    if run.headline is not None:
        logged = run.series(f"validation_{run.headline}")[1]
        score = run.score if run.score is not None else logged[-1] if logged else None
        when = "" if run.score is not None else ", newest"
        if score is not None:
            yield Fact(f"{score:.4f}", f"validation {run.headline}{when}")
    yield Fact(percent(run.sparsity("prunable")), "sparsity of prunable weights")
    yield Fact(percent(run.sparsity("model")), "sparsity of all weights")
    total = run.timetable.total_steps if run.timetable else run.status.get("total_steps")
    steps = f"{run.last_step:,}" if total in (None, run.last_step) else f"{run.last_step:,} of {total:,}"
    yield Fact(steps, "optimizer steps")
    if run.summary is not None:
        yield Fact(str(timedelta(seconds=round(run.summary["seconds"]))), "time, h:mm:ss")
    yield Fact(str(run.recipe.seed), "seed")


def _timeline(run: Run) -> Iterator[Block]:
    if not run.rows:
        yield Text("Nothing was logged yet.")
    yield timeline_picture(run)
    if run.recipe.pruning is not None:
        yield _updates(run)
    yield from _scores(run)


def _updates(run: Run) -> Table:
    """Planned mask updates, and what came of them."""
    planned = run.timetable.updates if run.timetable else ()
    done = {row["step"] - 1: row for row in run.updates}  # logged after the step
    steps = sorted({update.step for update in planned} | set(done))
    updates = {update.step: update for update in planned}
    rows = tuple(_update_cells(step, updates.get(step), done.get(step)) for step in steps)
    columns = ("step", "planned", "reached", "of all weights", "time", "sent by a rank")
    note = "Sparsity of the prunable weights; time and bytes are those of the selection on one rank."
    return Table("updates", "Events", columns, rows, note)


def _update_cells(step: int, planned: MaskUpdate | None, row: dict[str, Any] | None) -> tuple[str, ...]:
    said = (f"{step:,}", percent(planned.sparsity if planned else None))
    if row is None:
        return (*said, MISSING, MISSING, MISSING, MISSING)
    return (
        *said,
        percent(row["sparsity_prunable"]),
        percent(row["sparsity_model"]),
        f"{1000 * row['update_seconds']:,.0f} ms",
        f"{row['update_bytes_sent'] / 1000:,.1f} kB",
    )


def _scores(run: Run) -> Iterator[Table]:
    """All evaluations."""
    rows = [row for row in run.rows if any(key.startswith("validation_") for key in row)]
    names = list(dict.fromkeys(key for row in rows for key in row if key.startswith("validation_")))
    if not rows:
        return
    cells = tuple((f"{row['step']:,}", *(_number(row.get(name)) for name in names)) for row in rows)
    columns = ("step", *(name.removeprefix("validation_") for name in names))
    yield Table("evaluations", "Evaluations", columns, cells)


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else MISSING if value is None else str(value)


def _layers(run: Run) -> Iterator[Block]:
    rows = [row for row in run.updates if row.get("tensor_sparsity")]
    if run.recipe.pruning is None:
        yield Text("Nothing is pruned in this run.")
    elif not rows:
        yield Text("No mask update has happened yet.")
    else:
        caption = f"Sparsity of each prunable tensor in per cent, after the mask update at step {rows[-1]['step']:,}."
        yield layer_map(rows[-1]["tensor_sparsity"], caption, origin_of([run]))


def _making(run: Run) -> Iterator[Block]:
    yield Code("Command", command_of(run), opened=True)
    facts = {key: run.start[key] for key in ("world_size", "device", "versions") if key in run.start}
    if facts:
        yield Code("Machine and versions", yaml.safe_dump(facts, sort_keys=False), opened=True)
    recipe = run.recipe.model_dump(mode="json")
    yield Code("Recipe, as resolved", yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    if run.ds_config:
        yield Code("DeepSpeed config, as resolved", yaml.safe_dump(run.ds_config, sort_keys=False))
