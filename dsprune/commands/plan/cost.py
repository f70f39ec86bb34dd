"""The cost of a plan: memory of a rank, disk space of a checkpoint, and traffic of the selection."""

from collections.abc import Iterable

from rich.filesize import decimal

from dsprune.commands.plan.make import Plan
from dsprune.masks.cut_bands import band_bytes
from dsprune.masks.input_sums import input_bytes
from dsprune.methods.method import (
    RECOMPUTATIONS,
    CompensatingMethod,
    RegrowingMethod,
    find_method,
    lets_regrow,
)
from dsprune.model.cost import checkpoint_bytes, rank_memory
from dsprune.recipe.pattern import Pattern
from dsprune.registry import SCOPES
from dsprune.report.table import Table
from dsprune.selection.compensate import block_bytes
from dsprune.selection.tiles import Tiling
from dsprune.selection.traffic import row_bytes, update_bytes

__all__ = ["describe_traffic", "memory_table"]


def memory_table(plan: Plan, world_size: int, stages: Iterable[int]) -> Table:
    """Return the memory of a rank and the bytes of a checkpoint, with one column per stage."""
    precision, pruning = plan.recipe.precision, plan.recipe.pruning
    regrows = pruning is not None and lets_regrow(pruning)
    methods = [] if pruning is None else [pruning.method, pruning.first_method or pruning.method]
    kept_bytes = max((find_method(name).bytes_per_weight() for name in methods), default=0)
    reads_inputs = any(find_method(name).reads_inputs for name in methods)
    kept_of = (kept_bytes, input_bytes(plan.tensors) if reads_inputs else 0)
    kept = ("accumulators",) if any(kept_of) else ()
    names = ("weights", "gradients", "master", "moments", "masks", *kept, "total")
    columns = []
    for stage in stages:
        size = plan.num_weights, plan.num_prunable, stage
        used = rank_memory(
            *size, world_size, precision, *kept_of, num_moments=plan.num_moments, regrows=regrows
        )
        disk = checkpoint_bytes(*size, precision, *kept_of, num_moments=plan.num_moments, regrows=regrows)
        sizes = (*(getattr(used, name) for name in names), disk)
        columns.append((f"ZeRO stage {stage}", *map(decimal, sizes)))
    headings, *rows = zip(("", *names, "checkpoint"), *columns, strict=True)
    ranks = "one rank" if world_size == 1 else f"each of {world_size} ranks"
    title = f"Memory of {ranks} in {precision}; activations and buffers come on top"
    return Table("memory", title, headings, tuple(rows))


def describe_traffic(plan: Plan, world_size: int) -> str:
    """Describe the communication of the selection; masks themselves are never sent."""
    pruning = plan.recipe.pruning
    assert pruning is not None, "without pruning there are no mask updates"
    groups = plan.groups(plan.timetable.updates[-1])
    if world_size == 1:
        return "Selection: one rank sends nothing (for several: --world-size N)"
    normalized, method = SCOPES.get(pruning.scope).normalized, find_method(pruning.method)
    parts = (pruning.recomputations or RECOMPUTATIONS) if issubclass(method, CompensatingMethod) else 1
    regrows = issubclass(method, RegrowingMethod)
    num_bytes = parts * update_bytes(groups, world_size, normalized, regrows)
    pattern, completed = Pattern.parse(pruning.pattern), ""
    if not pattern.is_unstructured:
        most = band_bytes([Tiling.of(tensor, pattern).band for tensor in plan.tensors], world_size)
        completed = f", and sends {decimal(most)} at most to complete tiles of {pattern.text} that shards cut"
    if most := parts * row_bytes(groups, world_size, regrows):
        completed += f", and sends {decimal(most)} at most to complete rows that shards cut"
    text = (
        f"Selection: each rank sends at most {decimal(num_bytes)} a mask update and receives as much{completed}, for "
        f"{len(plan.timetable.updates)} of them (nothing at ZeRO stage 0, where ranks are replicas)"
    )
    if method.reads_inputs:
        num_bytes = input_bytes(plan.tensors)
        text += f"\nInputs: each rank sends {decimal(num_bytes)} at a step that counts, at every ZeRO stage"
    if method.block == 1:
        return text
    at_step, at_update = map(decimal, block_bytes(method, len(plan.tensors), parts))
    return (
        f"{text}\nBlocks: to complete those that shards cut, each rank sends at most {at_step} a step whose gradients "
        f"count, and {at_update} a mask update"
    )
