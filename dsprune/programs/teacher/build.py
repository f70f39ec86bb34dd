"""Making the store of a recipe's teacher, or what is missing of it."""

import shutil
from functools import cache
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dsprune.distributed.ranks import Ranks
from dsprune.distributed.together import on_every_rank, on_first_rank
from dsprune.errors import UserError
from dsprune.programs.teacher.asking import Asking, Execution
from dsprune.programs.teacher.capture import capture
from dsprune.programs.teacher.choose import candidates, choose, measure, show
from dsprune.programs.teacher.source import Source
from dsprune.pure.recipe import Distillation
from dsprune.pure.store import (
    Begun,
    StorePlan,
    StoreSpec,
    begin_store,
    begun_store,
    check_origin,
    finish_store,
    missing_shards,
    plan_store,
)

__all__ = ["build_store"]

HEADER_BYTES = 4096
"""Room for the header of a file."""


def build_store(
    folder: Path, settings: Distillation, source: Source, execution: Execution, ranks: Ranks, console: Console
) -> None:
    """Ask the teacher about all examples, unless that was done, and keep the answers.

    Nothing is overwritten; what an interrupted capture has left is used. Collective: every rank must call
    this, and all must see the folder.

    Raises:
        UserError: the folder holds something else or the disk has too little room, before the teacher is
            asked; or the answers cannot be stored.
    """
    asking = cache(lambda: Asking(source, execution))  # loaded when it is needed: a finished store needs none
    if "teacher" not in source.origin:
        asking()  # from the hub to this machine
        source = source.identified(ranks)
    origin = source.origin | {"dataset": source.dataset, "precision": execution.precision}
    begun = on_first_rank(ranks, lambda: _begun(folder, settings, origin))
    spec = begun.spec if begun else _choose(settings, asking(), source, execution.batch_size, ranks, console)
    plan = plan_store(spec, origin, source.samples, source.task.num_rows(source.data))
    if begun and begun.finished == plan.digest:
        _say(ranks, console, f"teacher: {folder} is complete, {plan.num_records:,} records: nothing to do")
        return
    missing = on_first_rank(ranks, lambda: _begin(folder, plan))
    _say(ranks, console, _size(folder, plan, len(missing)))
    on_first_rank(ranks, lambda: _check_room(folder, plan, len(missing)))
    with _progress(console, shown=ranks.is_first) as progress:
        mine = [plan.records(shard) for shard in missing[ranks.rank :: ranks.world_size]]
        bar = progress.add_task("teacher", total=sum(records.stop - records.start for records in mine))
        on_every_rank(
            ranks,
            lambda: capture(
                folder,
                plan,
                missing,
                asking(),
                np.asarray(source.data["length"][:]),
                execution,
                ranks,
                advance=lambda count: progress.advance(bar, count),
            ),
        )
    heads = asking().heads() if spec.kind == "hidden" else {}
    on_first_rank(ranks, lambda: finish_store(folder, plan, heads))
    _say(ranks, console, f"teacher: finished: {folder}")


def _begun(folder: Path, settings: Distillation, origin: dict[str, str]) -> Begun | None:
    """What an earlier capture has left, if it is of this recipe."""
    begun = begun_store(folder) if folder.is_dir() else None
    if begun is not None:
        check_origin(folder, begun.origin, origin)
        wanted: dict[str, str] = {"dtype": settings.dtype}
        if settings.kind != "auto":
            wanted["kind"] = settings.kind
        if settings.kind == "topk":
            wanted |= {"k": str(settings.k), "temperatures": str(settings.stored_temperatures)}
        found = {name: str(value) for name, value in begun.spec}
        check_origin(folder, found, wanted)
    return begun


def _choose(
    settings: Distillation, asking: Asking, source: Source, sample: int, ranks: Ranks, console: Console
) -> StoreSpec:
    """The kind that the recipe names, or the smallest that will do. Collective: every rank must call this."""
    specs = candidates(settings, asking)
    if not specs:
        raise UserError(
            f"distillation.kind: value {settings.kind}: this task's outputs are not made by one linear layer: "
            f"use full, or topk"
        )
    if settings.kind != "auto":
        return specs[0]
    _, samples = np.unique(source.samples, return_index=True)  # in the order of a hash: drawn at random
    compared = measure(specs, asking, samples[:sample], settings.temperature.first)
    chosen = on_first_rank(ranks, lambda: compared.index(choose(compared)))
    if ranks.is_first:
        show(compared, compared[chosen], console)
    return compared[chosen].spec


def _begin(folder: Path, plan: StorePlan) -> list[int]:
    begin_store(folder, plan)
    return missing_shards(folder, plan)


def _bytes_to_write(plan: StorePlan, num_missing: int) -> int:
    return plan.num_bytes * num_missing // plan.num_shards + HEADER_BYTES * (num_missing + 1)


def _size(folder: Path, plan: StorePlan, num_missing: int) -> str:
    return (
        f"teacher: {folder}: {plan.num_records:,} records, {plan.num_rows:,} rows, kind {plan.spec.kind} "
        f"{plan.spec.dtype}, {plan.bytes_per_record:,.1f} bytes a record, {decimal(plan.num_bytes)} in all; "
        f"{num_missing} of {plan.num_shards} shards to write, {decimal(shutil.disk_usage(folder).free)} free"
    )


def _check_room(folder: Path, plan: StorePlan, num_missing: int) -> None:
    needed, free = _bytes_to_write(plan, num_missing), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: {decimal(needed)} to write and {decimal(free)} free: make room, give another "
            f"distillation.store, or a smaller distillation.kind"
        )


def _say(ranks: Ranks, console: Console, text: str) -> None:
    if ranks.is_first:
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _progress(console: Console, *, shown: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not (shown and console.is_terminal))
