"""The section `scheduler` of a ds_config, as the section `learning_rate` and the length of the run.

Parameters, defaults and formulas were read in `deepspeed/runtime/lr_schedules.py`. DeepSpeed steps a scheduler after
the optimizer, so schedulers with a warm-up are one step late: the first two steps have the same rate.
"""

from collections.abc import Callable
from typing import Any

from dsprune.commands.convert.notes import Notes
from dsprune.commands.convert.source import Entry
from dsprune.recipe.section import LARGEST

__all__ = ["convert_scheduler", "number_of"]

WARMUP_STEPS, CYCLE_STEPS, DENSE_PEAK = 1000, 2000, 0.001
"""DeepSpeed's defaults of `warmup_num_steps`, `cycle_first_step_size` and of WarmupDecayLR's `warmup_max_lr`."""

BETAS, SECOND_BETA = (0.8, 0.9), 0.99
"""DeepSpeed's defaults of `cycle_min_mom` and `cycle_max_mom`, and the second beta for them."""

Section = dict[str, Any]


def convert_scheduler(scheduler: Entry, rate: float | None, notes: Notes) -> dict[str, Section]:
    """Return values of the sections `learning_rate`, `budget` and `optimizer`.

    Args:
        scheduler: the section of the ds_config.
        rate: the learning rate of the optimizer; None = unknown.
        notes: receives the remarks.
    """
    convert = _SCHEDULERS.get(str(scheduler.get("type")))
    if convert is None:
        if scheduler.settings:
            notes.leave_out_all(scheduler, "the recipe has the default learning rate")
        return {} if rate is None else {"learning_rate": {"peak": rate}}
    section, total = convert(scheduler.section("params"), rate, notes)
    if convert is not _one_cycle:
        notes.differ(
            scheduler, "type", "each rate is one step earlier, as DeepSpeed steps the scheduler at the end"
        )
    notes.leave_out_unread(scheduler)
    beta = section.pop("first_beta", None)
    known = {key: value for key, value in section.items() if value is not None}
    return {
        "learning_rate": {"rewind": False, "dense_peak": 1.0, **known},
        "budget": {} if total is None else {"steps": total},
        "optimizer": {} if beta is None else {"betas": [beta, SECOND_BETA]},
    }


def number_of(params: Entry, key: str, default: float | None, notes: Notes) -> float | None:
    """Return a number; None, with a remark, if the ds_config leaves it to the Trainer, or has one per group."""
    value = params.get(key, default)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    notes.leave_out(params, key, "is not a number, so the recipe has its default")
    return None


def _share(part: float | None, whole: float | None) -> float | None:
    return float(f"{part / whole:.6g}") if part is not None and whole else None


def _whole(number: float | None) -> int | None:
    return None if number is None else int(min(number, LARGEST))


def _warmup(params: Entry, notes: Notes, curve: str = "linear") -> Section:
    steps = number_of(params, "warmup_num_steps", WARMUP_STEPS, notes)
    if (kind := params.get("warmup_type", "log")) != curve:
        named = "half a cosine" if curve == "cosine" else "a line"
        notes.differ(params, "warmup_type", f"the rise is along {named}, and {kind} in the source")
    return {"warmup": None if steps is None else f"{max(2, steps):g} steps"}


def _constant(
    params: Entry, rate: float | None, notes: Notes, *, peak: float | None = None
) -> tuple[Section, int | None]:
    peak = number_of(params, "warmup_max_lr", rate if peak is None else peak, notes)
    initial = _share(number_of(params, "warmup_min_lr", 0.0, notes), peak)
    return {"peak": peak, **_warmup(params, notes), "initial": initial, "final": 1.0}, None


def _linear(params: Entry, rate: float | None, notes: Notes) -> tuple[Section, int | None]:
    section, _ = _constant(params, rate, notes, peak=DENSE_PEAK)
    return section | {"final": 0.0}, _whole(number_of(params, "total_num_steps", None, notes))


def _cosine(params: Entry, rate: float | None, notes: Notes) -> tuple[Section, int | None]:
    section = {
        "peak": rate,
        **_warmup(params, notes, "cosine"),
        "initial": number_of(params, "warmup_min_ratio", 0.0, notes),
        "curve": "cosine",
        "final": number_of(params, "cos_min_ratio", 0.0001, notes),
    }
    return section, _whole(number_of(params, "total_num_steps", None, notes))


def _one_cycle(params: Entry, rate: float | None, notes: Notes) -> tuple[Section, int | None]:
    peak, low = (number_of(params, f"cycle_{end}_lr", None, notes) for end in ("max", "min"))
    rise = number_of(params, "cycle_first_step_size", CYCLE_STEPS, notes)
    fall = number_of(params, "cycle_second_step_size", rise, notes)
    low_beta, high_beta = (
        number_of(params, f"cycle_{end}_mom", beta, notes)
        for end, beta in zip(("min", "max"), BETAS, strict=True)
    )
    moves = params.get("cycle_momentum", True)
    if moves:
        notes.differ(
            params, "cycle_momentum", "the first step has cycle_max_mom, and cycle_min_mom in the source"
        )
    section = {
        "peak": peak,
        "warmup": None if rise is None else f"{rise:g} steps",
        "initial": _share(low, peak),
        "final": _share(low, peak),
        "beta_at_peak": low_beta if moves else None,
        "first_beta": high_beta if moves else None,
    }
    for key in ("cycle_first_stair_count", "cycle_second_stair_count"):
        if params.get(key):
            notes.leave_out(params, key, "the rate changes at every step")
    if params.get("decay_step_size"):
        notes.leave_out(params, "decay_step_size", "the run ends with the cycle")
        for key in ("decay_lr_rate", "decay_mom_rate"):
            params.get(key)
    return section, None if rise is None or fall is None else _whole(rise + fall)


_SCHEDULERS: dict[str, Callable[[Entry, float | None, Notes], tuple[Section, int | None]]] = {
    "WarmupLR": _constant,
    "WarmupDecayLR": _linear,
    "WarmupCosineLR": _cosine,
    "OneCycle": _one_cycle,
}
