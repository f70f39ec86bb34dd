"""Pruning modifiers of SparseML, as the section `pruning`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil, isclose
from typing import Any

from dsprune.commands.convert.notes import Notes
from dsprune.commands.convert.patterns import noted_globs
from dsprune.commands.convert.source import Entry
from dsprune.errors import UserError

__all__ = ["METHODS_OF", "Pruned", "prune"]

METHODS_OF = {
    "GMPruningModifier": "magnitude",
    "MagnitudePruningModifier": "magnitude",
    "GlobalMagnitudePruningModifier": "magnitude",
    "MovementPruningModifier": "movement",
    "OBSPruningModifier": "obert",
    "ACDCPruningModifier": "magnitude",
    "ConstantPruningModifier": "magnitude",
}
"""Modifier to method of dsprune."""

_GLOBAL = {"GlobalMagnitudePruningModifier", "OBSPruningModifier", "ACDCPruningModifier"}
_SECOND_ORDER = {"num_grads": "window", "damp": "damping", "num_recomputations": "recomputations"}
"""Settings of OBSPruningModifier, and their names in a recipe."""

DIAGONAL = "empirical-fisher"
"""The method for blocks of OBSPruningModifier, because `obert` prunes single weights."""

_CURVES = ("cubic", "linear")
_ALL = ("__ALL__", "__ALL_PRUNABLE__")


@dataclass
class Pruned:
    """The section `pruning`, and its mask updates.

    Attributes:
        section: the settings of the section.
        updates: the mask updates, in epochs.
    """

    section: dict[str, Any]
    updates: list[float] = field(default_factory=list)


def prune(modifiers: Sequence[Entry], total: float, notes: Notes) -> Pruned | None:
    """Return the section `pruning` for the pruning modifiers of a recipe; None if there are none.

    Args:
        modifiers: all pruning modifiers; those with the schedule of the first one are converted.
        total: length of the run, in epochs.
        notes: receives the remarks.
    """
    if not modifiers:
        return None
    lead = modifiers[0]
    same = [modifier for modifier in modifiers if _schedule(modifier) == _schedule(lead)]
    notes.leave_out_schedules([modifier for modifier in modifiers if modifier not in same], lead)
    section = {**_scored(lead, notes), **_targets(same, notes)}
    if lead.name == "ConstantPruningModifier":
        notes.missing["pruning.sparsity"] = (
            "that of the model to start from; `dsprune train RECIPE --masks-from zeros` then keeps its zeros"
        )
        return Pruned({**section, "curve": "one-shot", "start": "0 steps"}, [0.0])
    pruned = _spread(lead, total, section, notes)
    for modifier in same:
        modifier.get("leave_enabled")
        if modifier.get("leave_enabled", True) is not True:
            notes.leave_out(modifier, "leave_enabled", "the masks are kept to the end of the run")
        if modifier.name == "OBSPruningModifier":
            pruned.section |= _second_order(modifier, section["method"], notes)
    return pruned


def _second_order(modifier: Entry, method: str, notes: Notes) -> dict[str, Any]:
    """Return the settings of the Fisher matrix that a method has."""
    if modifier.get("grad_sampler_kwargs") is not None:
        notes.leave_out(modifier, "grad_sampler_kwargs", "the gradients are those of the training steps")
    if modifier.get("num_grads") is not None:
        notes.differ(
            modifier, "num_grads", "the gradients are those of whole batches, of the last training steps"
        )
    if modifier.number("start_epoch", 0) <= 0:
        notes.differ(
            modifier, "start_epoch", "the first mask update has the gradient of the first step alone"
        )
    if method == DIAGONAL:
        for key in ("damp", "num_recomputations", "fisher_block_size"):
            if modifier.get(key) is not None:
                notes.leave_out(modifier, key, f"{DIAGONAL} needs the diagonal of the Fisher matrix only")
        values = {"window": modifier.get("num_grads")}
    else:
        if modifier.get("fisher_block_size", 50) != 50:
            notes.leave_out(modifier, "fisher_block_size", "blocks have 50 weights")
        values = {name: modifier.get(key) for key, name in _SECOND_ORDER.items()}
        values["recomputations"] = values["recomputations"] or 1  # SparseML's default
    return {name: value for name, value in values.items() if value is not None}


def _schedule(modifier: Entry) -> list[Any]:
    """Return the settings that modifiers of one schedule have in common."""
    keys = (
        "init_sparsity", "start_epoch", "end_epoch", "update_frequency", "inter_func", "mask_type", "global_sparsity",
    )  # fmt: skip
    return [modifier.name, *(str(modifier.get(key)) for key in keys)]


def _scored(modifier: Entry, notes: Notes) -> dict[str, Any]:
    """Return method, scope and pattern."""
    is_global = modifier.get("global_sparsity", modifier.name in _GLOBAL)
    scored = {"method": METHODS_OF[modifier.name], "scope": "global" if is_global else "uniform"}
    return scored | _pattern(modifier, notes)


def _pattern(modifier: Entry, notes: Notes) -> dict[str, Any]:
    """Return the pattern for blocks of outputs and inputs, such as `block4` and `[1, 4]`."""
    kind = modifier.get("mask_type", "unstructured")
    sides = [1, 4] if kind == "block4" else kind
    if kind == "unstructured":
        return {}
    if (
        isinstance(sides, list)
        and len(sides) == 2
        and all(isinstance(side, int) and side > 0 for side in sides)
    ):
        pattern = f"{sides[0]}x{sides[1]}"
        if modifier.name == "OBSPruningModifier":
            notes.differ(
                modifier,
                "mask_type",
                f"obert prunes single weights; {DIAGONAL} scores blocks, and does not change the weights that stay",
            )
            return {"pattern": pattern, "method": DIAGONAL}
        return {"pattern": pattern}
    notes.leave_out(modifier, "mask_type", f"weights are pruned one by one, not as {kind}")
    return {}


def _targets(modifiers: Sequence[Entry], notes: Notes) -> dict[str, Any]:
    """Return the targets and the weights to prune."""
    targets = [target for modifier in modifiers for target in _target(modifier, notes)]
    sparsities = {sparsity for sparsity, _ in targets if sparsity is not None}
    globs = [glob for _, own in targets for glob in own]
    section: dict[str, Any] = {"sparsity": max(sparsities)} if sparsities else {}
    if not sparsities:
        notes.missing["pruning.sparsity"] = (
            f"the target, which the modifier in line {modifiers[0].line} does not have"
        )
    if globs:
        section["only"] = list(dict.fromkeys(globs))
    if len(sparsities) > 1:
        section["sparsities"] = {glob: sparsity for sparsity, own in targets for glob in own}
        if modifiers[0].get("init_sparsity") not in (None, 0, 0.0):
            notes.differ(
                modifiers[0],
                "init_sparsity",
                "weights with a lower target begin at the same fraction of it, not at this",
            )
    return section


def _target(modifier: Entry, notes: Notes) -> Iterator[tuple[float | None, list[str]]]:
    """Yield each target of a modifier with the globs of its weights."""
    key = "compression_sparsity" if "compression_sparsity" in modifier.settings else "final_sparsity"
    final = modifier.get(key)
    names = modifier.texts("params")
    mapping = modifier.section(key)
    for sparsity in mapping.settings:
        yield _as_sparsity(mapping, sparsity), _globs(modifier, key, mapping.texts(sparsity), notes)
    if not mapping.settings:
        target = None if final is None else modifier.number(key, 0)
        yield target, _globs(modifier, "params", names, notes)


def _as_sparsity(mapping: Entry, key: str) -> float:
    try:
        return float(key)
    except ValueError:
        raise UserError(
            f"{mapping.file}: line {mapping.line_of(key)}: {mapping.name}: {key!r} is not a sparsity: write a number"
        ) from None


def _globs(modifier: Entry, key: str, names: list[str], notes: Notes) -> list[str]:
    if any(name in _ALL for name in names):
        notes.differ(
            modifier,
            key,
            "also has matrices outside of the blocks, such as heads: add them by pruning.include",
        )
        return []
    found: list[str] = []
    for name in names:
        if name.startswith("re:"):
            # An expression may match only the start of a name.
            pattern = name[3:] + ("" if name.endswith(("weight", "bias", "$", "*")) else ".*")
            found += noted_globs(modifier, key, name, pattern, "pruning.only", notes)
        else:
            found.append(name)
    return found


def _spread(modifier: Entry, total: float, section: dict[str, Any], notes: Notes) -> Pruned:
    """Return the section with the steps of the mask updates."""
    start, end = max(0.0, modifier.number("start_epoch", 0)), modifier.number("end_epoch", total)
    every = modifier.number("update_frequency", -1)
    if modifier.name == "ACDCPruningModifier":
        return _alternate(modifier, start, min(end, total), section, notes)
    if end >= total:
        moved = total - every if 0 < every < total - start else start + 0.99 * (total - start)
        notes.differ(
            modifier, "end_epoch", f"a run has a step after its last mask update, so this is at {moved:g}"
        )
        end = moved
    first = _first(modifier, section, notes)
    curve = modifier.get("inter_func", "cubic")
    if curve not in _CURVES:
        notes.leave_out(modifier, "inter_func", "the curve is cubic")
        curve = "cubic"
    section |= {"curve": curve, "first": first, "start": f"{start:g} epochs", "end": f"{end:g} epochs"}
    if every <= 0:
        return Pruned({**section, "every": "1 steps"}, [start, start + 1e-6, end])
    if first == 0 and not isclose(start / every, round(start / every), abs_tol=1e-6):
        notes.differ(modifier, "update_frequency", "without a jump, mask updates are at multiples of it")
    return Pruned({**section, "every": f"{every:g} epochs"}, _updates(start, end, every, jump=first > 0))


def _alternate(modifier: Entry, start: float, end: float, section: dict[str, Any], notes: Notes) -> Pruned:
    """Return the section for phases of equal length, of which the first is dense and the last is sparse."""
    every = modifier.number("update_frequency", -1)
    if modifier.get("momentum_buffer_reset", True):
        notes.differ(
            modifier,
            "momentum_buffer_reset",
            "moments begin at zero for the weights that grow back, and no others",
        )
    section["curve"] = "alternating"
    if every <= 0:
        notes.differ(
            modifier, "update_frequency", "without it the schedule law gives the number of mask updates"
        )
        return Pruned({**section, "start": f"{start:g} epochs"}, [start])
    # Phases that begin after the first and before the end.
    number = ceil(min((end - start) / every, 100_000) - 1e-9) - 1
    number -= number % 2 == 0
    if number < 1:
        notes.differ(modifier, "end_epoch", "it ends before its first sparse phase, but a recipe has one")
    updates = [start + every * (i + 1) for i in range(max(1, number))]
    section["start"] = f"{updates[0]:g} epochs"
    if len(updates) == 1:
        return Pruned({**section, "curve": "one-shot"}, updates)
    return Pruned({**section, "end": f"{updates[-1]:g} epochs", "updates": number}, updates)


def _first(modifier: Entry, section: dict[str, Any], notes: Notes) -> float:
    first = modifier.get("init_sparsity", 0.0)
    if isinstance(first, str):
        notes.leave_out(
            modifier, "init_sparsity", "the sparsity begins at 0, or with the zeros of --masks-from zeros"
        )
        return 0.0
    return float(modifier.number("init_sparsity", 0.0))


def _updates(start: float, end: float, every: float, *, jump: bool) -> list[float]:
    """Return the mask updates like `dsprune.schedule.build`."""
    origin = start if jump else 0.0
    number = int((end - origin) / every + 1)
    grid = [origin + i * every for i in range(1, min(number, 100_000) + 1)]
    between = [point for point in grid if start < point < end - 1e-9]
    return [start, *between, end] if jump else [*between, end]
