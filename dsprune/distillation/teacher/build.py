"""Making the store of a recipe's teacher, or what is missing of it."""

import shutil
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.filesize import decimal

from dsprune.distillation.store import (
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
from dsprune.distillation.store.format import HEADS, MANIFEST
from dsprune.distillation.teacher.capture import capture
from dsprune.distillation.teacher.forward import Execution, TeacherModel
from dsprune.distillation.teacher.kinds import SAMPLE, candidates, check_fit, choose, measure, show
from dsprune.distillation.teacher.source import Source
from dsprune.errors import UserError
from dsprune.ranks.agreement import on_every_rank, on_first_rank
from dsprune.ranks.ranks import Ranks
from dsprune.recipe import Distillation
from dsprune.utils.console import progress_bar, say
from dsprune.utils.files import sole_writer

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
    asking = cache(
        lambda: TeacherModel(source, execution)
    )  # loaded when it is needed: a finished store needs none
    if "teacher" not in source.origin:
        asking()  # from the hub to this machine
        source = source.identified(ranks)
    origin = source.origin | {"dataset": source.dataset, "precision": execution.precision}
    begun = on_first_rank(ranks, lambda: _begun(folder, settings, origin))
    spec = begun.spec if begun else _choose(settings, asking(), source, execution.batch_size, ranks, console)
    plan = plan_store(spec, origin, source.samples, source.task.num_rows(source.data))
    with ExitStack() as until_finished:
        missing = on_first_rank(ranks, lambda: _begin(folder, plan, until_finished))
        if missing is None:
            _say(
                ranks, console, f"teacher: {folder} is complete, {plan.num_records:,} records: nothing to do"
            )
            return
        _say(ranks, console, _size(folder, plan, len(missing)))
        on_first_rank(ranks, lambda: _check_room(folder, plan, len(missing)))
        progress = until_finished.enter_context(progress_bar(console, shown=ranks.is_first))
        lengths = np.asarray(source.data["length"][:])
        on_every_rank(
            ranks, lambda: capture(folder, plan, missing, asking(), lengths, execution, ranks, progress)
        )
        heads = asking().heads() if spec.kind == "hidden" else {}
        on_first_rank(ranks, lambda: finish_store(folder, plan, heads))
    _say(ranks, console, f"teacher: finished: {folder}")


def _begun(folder: Path, settings: Distillation, origin: dict[str, str]) -> Begun | None:
    """What an earlier capture has left, if it is of this recipe."""
    begun = begun_store(folder) if folder.is_dir() else None
    if begun is not None:
        check_origin(folder, begun.origin, origin)
        check_fit(folder, begun.spec, settings)
    return begun


def _choose(
    settings: Distillation,
    asking: TeacherModel,
    source: Source,
    batch_size: int,
    ranks: Ranks,
    console: Console,
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
    ramp = settings.temperature
    temperatures = sorted({ramp.first, ramp.final, *settings.temperatures})
    compared = measure(specs, asking, samples[:SAMPLE], batch_size, temperatures)
    chosen = on_first_rank(ranks, lambda: compared.index(choose(compared)))
    if ranks.is_first:
        show(compared, compared[chosen], console)
    return compared[chosen].spec


def _begin(folder: Path, plan: StorePlan, until_finished: ExitStack) -> list[int] | None:
    """Take the folder, and find out which shards are missing; None = the store is finished and whole."""
    until_finished.enter_context(sole_writer(folder))
    begin_store(folder, plan)
    missing = missing_shards(folder, plan)
    last = [MANIFEST, HEADS] if plan.spec.kind == "hidden" else [MANIFEST]
    return missing if missing or not all((folder / name).exists() for name in last) else None


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
        say(console, text)
