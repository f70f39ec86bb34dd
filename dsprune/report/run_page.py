"""The report of one run."""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import yaml

from dsprune.recipe.pattern import UNSTRUCTURED
from dsprune.report.page import Block, Code, Page, Section, Text
from dsprune.report.run_pictures import distillation_sections, layer_map, timeline_of_run
from dsprune.report.runs import VALIDATION, Run, origin_of
from dsprune.report.table import Table, table_of
from dsprune.utils.text import MISSING, percent

__all__ = ["page_of_run"]

STATES = {
    "finished": "The run is finished.",
    "running": "The run is still running, or was killed before it could record its end.",
    "stopped": "The run was stopped with a checkpoint, and can be resumed.",
    "failed": "The run failed.",
    "unfinished": "The run is not finished: it is still running, or was killed.",
}


def page_of_run(run: Run, audit: Text | None, extra: Sequence[Section] = ()) -> Page:
    """Return the page of a run."""
    sections = (
        Section("Timeline", tuple(_timeline(run))),
        Section("Layers", (_layers(run),)),
        *distillation_sections(run),
        *extra,
        *([Section("Audit", (audit,))] if audit is not None else []),
        Section("How it was made", tuple(_making(run))),
    )
    return Page(run.name, _lead(run), dict(_facts(run)), sections, origin_of([run]), run.state)


def _lead(run: Run) -> str:
    model, task = run.recipe.model, run.recipe.task
    subject = f"{model.path} on {task.name}. " if model and task else ""
    reason = f" {run.status.reason.rstrip('.')}." if run.status and run.status.reason else ""
    return subject + STATES.get(run.state, "") + reason


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    if run.score is not None:
        yield f"validation {run.headline}", f"{run.score:.4f}"
    elif logged := run.evaluations[1]:
        yield f"validation {run.headline}, newest", f"{logged[-1]:.4f}"
    yield "sparsity of prunable weights", percent(run.sparsity("prunable"))
    yield "sparsity of all weights", percent(run.sparsity("model"))
    if run.recipe.pruning is not None and run.recipe.pruning.pattern != UNSTRUCTURED.text:
        yield "pattern", run.recipe.pruning.pattern
    total = run.timetable.total_steps if run.timetable else run.status.total_steps if run.status else None
    of_total = "" if total in (None, run.last_step) else f" of {total:,}"
    yield "optimizer steps", f"{run.last_step:,}{of_total}"
    if run.summary is not None and run.summary.seconds is not None:
        yield "time, h:mm:ss", str(timedelta(seconds=round(run.summary.seconds)))
    yield "seed", str(run.recipe.seed)


def _timeline(run: Run) -> Iterator[Block]:
    if not run.rows:
        yield Text("Nothing was logged yet.")
    yield timeline_of_run(run)
    if run.recipe.pruning is not None:
        yield _updates(run)
    yield from _scores(run)


def _updates(run: Run) -> Table:
    """Return the planned mask updates, with the results of those that took place."""
    planned = {update.step: update.sparsity for update in run.timetable.updates} if run.timetable else {}
    done: dict[int, dict[str, Any]] = {step: {} for step in planned} | run.updates
    columns: dict[str, Callable[[int], str]] = {
        "step": lambda step: f"{step:,}",
        "planned": lambda step: percent(planned.get(step)),
        "reached": lambda step: percent(done[step].get("sparsity_prunable")),
        "of all weights": lambda step: percent(done[step].get("sparsity_model")),
        "time": lambda step: _scaled(done[step].get("update_seconds"), 1000, "ms", 0),
        "sent by a rank": lambda step: _scaled(done[step].get("update_bytes_sent"), 1 / 1000, "kB", 1),
    }
    note = (
        "A mask update takes place just before its step. Sparsity of the prunable weights; time and bytes are those "
        "of the selection on one rank."
    )
    if any("update_regrown" in row for row in done.values()):
        columns["grew back"] = lambda step: _count(done[step].get("update_regrown"))
        columns["regrown of kept"] = lambda step: percent(done[step].get("share_regrown"))
        note += " Regrown are the kept weights that were pruned at some earlier step."
    return table_of("updates", "Mask updates", sorted(done), columns, note=note)


def _count(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def _scaled(value: float | None, factor: float, unit: str, digits: int) -> str:
    return MISSING if value is None else f"{factor * value:,.{digits}f} {unit}"


def _scores(run: Run) -> Iterator[Table]:
    """Yield the table of all evaluations, if there are any."""
    names = dict.fromkeys(key for row in run.rows for key in row if key.startswith(VALIDATION))
    rows = [row for row in run.rows if not names.keys().isdisjoint(row)]
    if rows:
        cells = tuple((f"{row['step']:,}", *(_number(row.get(name)) for name in names)) for row in rows)
        columns = ("step", *(name.removeprefix(VALIDATION) for name in names))
        yield Table("evaluations", "Evaluations", columns, cells)


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else MISSING if value is None else str(value)


def _layers(run: Run) -> Block:
    measured = [(step, known) for step, row in run.updates.items() if (known := row.get("tensor_sparsity"))]
    if run.recipe.pruning is None:
        return Text("Nothing is pruned in this run.")
    if not measured:
        return Text("No mask update has happened yet.")
    return layer_map(run, *measured[-1])


def _making(run: Run) -> Iterator[Block]:
    yield Code("Command", run.command, opened=True)
    facts = run.start.model_dump(include={"world_size", "device", "versions"}, exclude_unset=True)
    if facts:
        yield Code("Machine and versions", yaml.safe_dump(facts, sort_keys=False), opened=True)
    recipe = run.recipe.model_dump(mode="json")
    yield Code("Recipe, as resolved", yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    if run.ds_config:
        yield Code("DeepSpeed config, as resolved", yaml.safe_dump(run.ds_config, sort_keys=False))
