"""Build the store of a recipe's teacher, or complete a partial one."""

import shutil
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.filesize import decimal

from dsprune.distillation.capture.choice import NUM_COMPARED, candidates, choose, measure, show
from dsprune.distillation.capture.forward import Execution, Source, TeacherModel
from dsprune.distillation.capture.shards import write_shards
from dsprune.distillation.matching import check_fit
from dsprune.distillation.store import (
    ExistingStore,
    StorePlan,
    StoreSpec,
    begin_store,
    check_origin,
    find_store,
    finish_store,
    missing_shards,
    plan_store,
)
from dsprune.distillation.store.format import HEAD_FILE, MANIFEST
from dsprune.errors import UserError
from dsprune.ranks.agreement import on_every_rank, on_first_rank
from dsprune.recipe import Distillation
from dsprune.utils.console import progress_bar, say, waiting
from dsprune.utils.files import lock_folder

__all__ = ["build_store", "describe_records", "find_matching_store"]

HEADER_BYTES = 4096
"""Allowance for the header of a file."""


def build_store(
    folder: Path, settings: Distillation, source: Source, execution: Execution, console: Console
) -> None:
    """Run the teacher over all examples and write its outputs to a store, unless the store is complete.

    Nothing is overwritten: shards of an interrupted capture are kept, and the missing ones are written. Collective:
    every rank must call this, and all ranks must see the folder.

    Raises:
        UserError: the folder holds other files or the disk is too small, both before the teacher runs; or the outputs
            cannot be stored.
    """
    # Loaded on first use, because a complete store needs no teacher.
    load_teacher = cache(lambda: TeacherModel(source, execution))
    if "teacher" not in source.origin:
        load_teacher()  # downloads the weights, so that they have a fingerprint
        source = source.with_teacher_fingerprint()
    origin = source.origin | {"dataset": source.dataset, "precision": execution.precision}
    existing = on_first_rank(lambda: find_matching_store(folder, settings, origin))
    if existing is not None:
        spec = existing.spec
    else:
        spec = _choose_spec(settings, load_teacher(), source, execution.batch_size, console)
    plan = plan_store(spec, origin, source.samples, source.task.num_rows(source.data))
    with ExitStack() as until_finished:
        missing = on_first_rank(lambda: _begin(folder, plan, until_finished))
        if missing is None:
            records = describe_records(plan.num_records, len(source.samples))
            say(console, f"teacher: {folder} is complete, {records}: nothing to do")
            return
        say(console, _describe(folder, plan, len(missing), len(source.samples)))
        on_first_rank(lambda: _check_room(folder, plan, len(missing)))
        progress = until_finished.enter_context(progress_bar(console))
        lengths = np.asarray(source.data["length"][:])
        on_every_rank(
            lambda: write_shards(folder, plan, missing, load_teacher(), lengths, execution, progress)
        )
        heads = load_teacher().heads() if spec.kind == "hidden" else {}
        on_first_rank(lambda: finish_store(folder, plan, heads))
    say(console, f"teacher: finished: {folder}")


def find_matching_store(folder: Path, settings: Distillation, origin: dict[str, str]) -> ExistingStore | None:
    """Find the store of an earlier capture, and check that it matches this recipe."""
    existing = find_store(folder) if folder.is_dir() else None
    if existing is not None:
        check_origin(folder, existing.origin, origin)
        check_fit(folder, existing.spec, settings)
    return existing


def _choose_spec(
    settings: Distillation, teacher: TeacherModel, source: Source, batch_size: int, console: Console
) -> StoreSpec:
    """Return the recipe's kind, or the smallest accurate one. Collective: every rank must call this."""
    specs = candidates(settings, teacher)
    if not specs:
        raise UserError(
            f"distillation.kind: value {settings.kind}: this task's outputs are not made by one linear layer: "
            f"use full, or topk"
        )
    if settings.kind != "auto":
        return specs[0]
    # Ordered by hash, so the first n are a random sample.
    _, samples = np.unique(source.samples, return_index=True)
    ramp = settings.temperature
    temperatures = sorted({ramp.first, ramp.final, *settings.temperatures})
    what = f"comparing kinds of stores on {min(NUM_COMPARED, len(samples)):,} examples"
    with waiting(console, what):
        compared = measure(specs, teacher, samples[:NUM_COMPARED], batch_size, temperatures)
    chosen = on_first_rank(lambda: compared.index(choose(compared)))
    show(compared, compared[chosen], console)
    return compared[chosen].spec


def _begin(folder: Path, plan: StorePlan, until_finished: ExitStack) -> list[int] | None:
    """Lock the folder and return the missing shards; None if the store is complete."""
    busy = "another process is writing to it: wait until that one is done"
    until_finished.enter_context(lock_folder(folder, busy))
    begin_store(folder, plan)
    missing = missing_shards(folder, plan)
    last = [MANIFEST, HEAD_FILE] if plan.spec.kind == "hidden" else [MANIFEST]
    return missing if missing or not all((folder / name).exists() for name in last) else None


def describe_records(num_records: int, num_examples: int, *, is_all: bool = True) -> str:
    """Describe the number of records, and why there are fewer than examples.

    Args:
        num_records: number of records in the store.
        num_examples: number of training examples, which all have a record.
        is_all: whether these are all examples of the store.

    Examples:
        >>> describe_records(9060, 9062)
        '9,060 records of 9,062 examples (2 repeat the inputs of others)'
    """
    if not is_all:
        return f"{num_records:,} records, those of the {num_examples:,} examples among them"
    repeated = num_examples - num_records
    if not repeated:
        return f"{num_records:,} records"
    verb = "repeats" if repeated == 1 else "repeat"
    return f"{num_records:,} records of {num_examples:,} examples ({repeated:,} {verb} the inputs of others)"


def _describe(folder: Path, plan: StorePlan, num_missing: int, num_examples: int) -> str:
    records = describe_records(plan.num_records, num_examples)
    return (
        f"teacher: {folder}: {records}, {plan.num_rows:,} rows, kind {plan.spec.kind} "
        f"{plan.spec.dtype}, {plan.bytes_per_record:,.1f} bytes per record, {decimal(plan.num_bytes)} in all; "
        f"{num_missing} of {plan.num_shards} shards to write, {decimal(shutil.disk_usage(folder).free)} free"
    )


def _check_room(folder: Path, plan: StorePlan, num_missing: int) -> None:
    needed = plan.num_bytes * num_missing // plan.num_shards + HEADER_BYTES * (num_missing + 1)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: {decimal(needed)} to write and {decimal(free)} free: make room, give another "
            f"distillation.store, or a smaller distillation.kind"
        )
