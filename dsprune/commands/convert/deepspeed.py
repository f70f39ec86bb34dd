"""The sections `compression_training` and `scheduler` of a ds_config, as values of a recipe.

Keys, defaults and meaning were read in the folder `deepspeed/compression` that DeepSpeed had.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from dsprune.commands.convert.notes import Notes
from dsprune.commands.convert.patterns import noted_globs
from dsprune.commands.convert.schedulers import convert_scheduler, number_of
from dsprune.commands.convert.source import Entry

__all__ = ["convert_deepspeed", "is_deepspeed"]

SECTION = "compression_training"

OFFSET = 1000
"""DeepSpeed's default of `schedule_offset`."""

BLOCKS = re.compile(r"[1-9][0-9]{0,4}x[1-9][0-9]{0,4}")
"""Block patterns that a recipe has too."""

_OWN = {
    SECTION, "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_clipping", "fp16", "bf16", "optimizer",
    "scheduler",
}  # fmt: skip
_UNSUPPORTED = {
    "weight_quantization": "dsprune does not quantize",
    "activation_quantization": "dsprune does not quantize",
    "row_pruning": "dsprune removes no rows; with pruning.pattern=rows whole rows become zero",
    "head_pruning": "dsprune removes no attention heads",
    "channel_pruning": "dsprune removes no channels",
}


def is_deepspeed(root: Entry) -> bool:
    """Return whether a file is a ds_config with settings of DeepSpeed's compression, or with a scheduler."""
    return any(section.name in (SECTION, "scheduler") for section in root.sections())


def convert_deepspeed(root: Entry, notes: Notes) -> dict[str, Any]:
    """Return the values of a recipe with the training settings of a ds_config."""
    values = dict(_settings(root, notes))
    notes.missing["budget.epochs"] = "length of the run in epochs; a ds_config has none"
    compression = root.section(SECTION)
    for part in compression.sections():
        if not _is_enabled(part):
            part.plain()
        elif part.name == "sparse_pruning":
            values["pruning"] = _pruning(part, notes)
        elif part.name == "layer_reduction":
            values["model"] = _layers(part, notes)
        else:
            notes.leave_out_all(part, _UNSUPPORTED.get(part.name, "not known to this command"))
        notes.leave_out_unread(part)
    return values


def _is_enabled(part: Entry) -> bool:
    return part.section("shared_parameters").get("enabled", part.get("enabled", False)) is True


def _settings(root: Entry, notes: Notes) -> Iterator[tuple[str, Any]]:
    """Yield the values that a recipe takes from a ds_config: batch, learning rate, precision, clipping, optimizer."""
    optimizer, scheduler = root.section("optimizer"), root.section("scheduler")
    scheduled = convert_scheduler(scheduler, number_of(optimizer.section("params"), "lr", None, notes), notes)
    batch = {"batch": root.get("train_batch_size"), "micro_batch": root.get("train_micro_batch_size_per_gpu")}
    given = {key: value for key, value in batch.items() if type(value) is int}
    if budget := given | scheduled.get("budget", {}):
        yield "budget", budget
    if "learning_rate" in scheduled:
        yield "learning_rate", scheduled["learning_rate"]
    if (clipping := number_of(root, "gradient_clipping", None, notes)) is not None:
        yield "gradient_clipping", clipping
    yield "precision", _precision(root, notes)
    if optimizer.settings:
        yield "optimizer", _optimizer(optimizer, notes) | scheduled.get("optimizer", {})
        notes.leave_out_unread(optimizer)
    if kept := [key for key in root.settings if key not in _OWN]:
        notes.left_out.append(
            (root.line, f"{', '.join(kept)}: stay in the ds_config, which the recipe names in `deepspeed`")
        )


def _precision(root: Entry, notes: Notes) -> str:
    formats = {key: root.section(key).get("enabled") for key in ("fp16", "bf16")}
    for key, enabled in formats.items():
        if enabled not in (True, False, None):
            notes.leave_out(root.section(key), "enabled", "the Trainer sets it: set precision")
    return next((key for key, enabled in formats.items() if enabled is True), "fp32")


def _optimizer(optimizer: Entry, notes: Notes) -> dict[str, Any]:
    params = optimizer.section("params")
    found: dict[str, Any] = {
        "weight_decay": number_of(params, "weight_decay", None, notes),
        "betas": params.get("betas"),
        "eps": number_of(params, "eps", None, notes),
    }
    if found["betas"] == "auto":
        notes.leave_out(params, "betas", "is not a list, so the recipe has its default")
        found["betas"] = None
    known = {key: value for key, value in found.items() if value is not None}
    return {"type": optimizer.get("type", "AdamW"), **known}


def _pruning(part: Entry, notes: Notes) -> dict[str, Any]:
    """Return the section `pruning` for `sparse_pruning`."""
    shared = part.section("shared_parameters")
    method = shared.get("method", "l1")
    section = _METHODS.get(str(method), _unknown)(shared, notes)
    groups = part.section("different_groups").sections()
    targets = {group.name: _target(group, shared) for group in groups} or {"": _target(shared, shared)}
    if None in targets.values():
        notes.missing["pruning.sparsity"] = "1 - dense_ratio, which is not set"
    else:
        section["sparsity"] = max(filter(None, targets.values()), default=0.0)
    globs = {group.name: _globs(group, notes) for group in groups}
    if only := [glob for found in globs.values() for glob in found]:
        section["only"] = only
    if len(set(targets.values())) > 1:
        section["sparsities"] = {glob: targets[name] for name, found in globs.items() for glob in found}
    if excluded := shared.texts("excluded_modules"):
        section["exclude"] = [f"*{name}*" for name in excluded]
    return section


def _target(group: Entry, shared: Entry) -> float | None:
    """Return the sparsity for the `dense_ratio` of a group, or the one for all groups."""
    ratio = group.section("params").number("dense_ratio", shared.number("dense_ratio", -1))
    return None if ratio == -1 else float(round(1 - ratio, 12))


def _globs(group: Entry, notes: Notes) -> list[str]:
    """Return globs for the modules of a group, given as expressions to search in module names."""
    found: list[str] = []
    if group.get("related_modules"):
        notes.leave_out(group, "related_modules", "no module becomes smaller")
    for module in group.texts("modules") or ["*"]:
        if module == "*":
            return []
        globs = noted_globs(group, "modules", module, module, "pruning.only", notes)
        found += [f"*{glob}*.weight" for glob in globs]
    return found


def _l1(shared: Entry, notes: Notes) -> dict[str, Any]:
    notes.differ(
        shared,
        "method",
        "the mask is chosen by the magnitudes at the mask update, in DeepSpeed by those at the start",
    )
    return _one_shot(shared, "magnitude", notes)


def _topk(shared: Entry, notes: Notes) -> dict[str, Any]:
    notes.differ(shared, "method", "DeepSpeed learns a score for every weight, dsprune sums its movement")
    return _one_shot(shared, "movement", notes)


def _one_shot(shared: Entry, method: str, notes: Notes) -> dict[str, Any]:
    offset = shared.number("schedule_offset", OFFSET)
    if shared.number("schedule_offset_end", offset) != offset:
        notes.leave_out(shared, "schedule_offset_end", f"all weights are pruned at once, at step {offset}")
    return {"curve": "one-shot", "start": f"{offset} steps", "method": method, "scope": "uniform"}


def _snip_momentum(shared: Entry, notes: Notes) -> dict[str, Any]:
    notes.differ(shared, "method", "DeepSpeed averages |weight * gradient| with momentum, dsprune sums it")
    start = shared.number("schedule_offset", OFFSET)
    return {
        "curve": "cubic",
        "first": 0.0,
        "start": f"{start} steps",
        "end": f"{shared.get('schedule_offset_end', start)} steps",
        "every": f"{shared.get('schedule_offset_stride', 1)} steps",
        "method": "snip",
        "scope": "global",
        **_blocks(shared, notes),
    }


def _blocks(shared: Entry, notes: Notes) -> dict[str, Any]:
    """Return the pattern for blocks, which are outputs x inputs in both."""
    pattern = shared.get("block_pattern")
    if not isinstance(pattern, str) or BLOCKS.fullmatch(pattern) is None:
        notes.leave_out(shared, "block_pattern", "weights are pruned one by one, not in blocks")
        return {}
    return {} if pattern == "1x1" else {"pattern": pattern}


def _unknown(shared: Entry, notes: Notes) -> dict[str, Any]:
    notes.leave_out(shared, "method", "not known to this command: weights are scored by magnitude")
    return _one_shot(shared, "magnitude", notes)


_METHODS: dict[str, Callable[[Entry, Notes], dict[str, Any]]] = {
    "l1": _l1,
    "topk": _topk,
    "snip_momentum": _snip_momentum,
}


def _layers(part: Entry, notes: Notes) -> dict[str, Any]:
    """Return the section `model` for `layer_reduction`."""
    for key in ("keep_number_layer", "module_name_prefix"):
        part.get(key)
    notes.missing["model.path"] = "the teacher, whose layers are kept"
    if "other_module_name" in part.settings:
        part.get("other_module_name")
        notes.differ(part, "other_module_name", "everything that is not a layer is kept")
    return {"layers": part.get("teacher_layer", [])}
