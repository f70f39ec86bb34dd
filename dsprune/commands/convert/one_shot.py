"""One-shot pruning modifiers of llm-compressor, as the section `pruning`.

Settings and defaults were read in llm-compressor's `src/llmcompressor/modifiers/pruning`. These modifiers do not train,
so the run is the recovery.
"""

import re
from collections.abc import Sequence
from typing import Any

from dsprune.commands.convert.notes import Notes
from dsprune.commands.convert.patterns import noted_globs
from dsprune.commands.convert.source import Entry

__all__ = ["ONE_SHOT", "prune_once"]

ONE_SHOT = ("SparseGPTModifier", "WandaPruningModifier")

_CLASSES = ("Linear", "__ALL__", "__ALL_PRUNABLE__")
"""Targets that mean all matrices."""

_UNCHANGING = ("offload_hessians", "sequential_update", "sequential_targets")
_OWL = ("sparsity_profile", "owl_m", "owl_lmbda")
_HESSIAN = ("block_size", "dampening_frac")


def prune_once(modifiers: Sequence[Entry], notes: Notes) -> dict[str, Any]:
    """Return the section `pruning` for the first of some one-shot modifiers; the others are left out."""
    lead, *others = modifiers
    notes.leave_out_schedules(others, lead)
    for key in _UNCHANGING:
        lead.get(key)
    notes.differ_all(lead, "all layers are pruned together, from the inputs of the dense model")
    if lead.name == "SparseGPTModifier":
        _hessian(lead, notes)
    for key in _OWL:
        if lead.get(key) is not None:
            notes.leave_out(
                lead, key, "all matrices have one sparsity, unless pruning.sparsities says otherwise"
            )
    section = {"method": "wanda", "curve": "one-shot", "start": "0 steps", **_target(lead, notes)}
    for field, key in (("only", "params"), ("exclude", "ignore")):
        if globs := [glob for name in lead.texts(key) for glob in _globs(lead, key, name, notes)]:
            section[field] = globs
    return section


def _hessian(modifier: Entry, notes: Notes) -> None:
    """Add remarks on the settings of SparseGPT that no recipe can express."""
    notes.differ_all(
        modifier,
        "the score is Wanda's, and the weights that stay are not adjusted; pruning.method: obert adjusts them",
    )
    for key in _HESSIAN:
        if key in modifier.settings:
            modifier.get(key)
            notes.leave_out(modifier, key, "there is no Hessian of the inputs")
    if modifier.get("preserve_sparsity_mask"):
        notes.leave_out(
            modifier, "preserve_sparsity_mask", "zeros stay with `dsprune train --masks-from zeros`"
        )


def _target(modifier: Entry, notes: Notes) -> dict[str, Any]:
    """Return sparsity and pattern. N:M means N zeros in llm-compressor, and N kept weights in dsprune."""
    found = re.fullmatch(r"(\d+):(\d+)", str(modifier.get("mask_type", "0:0")))
    zeros, width = (int(found[1]), int(found[2])) if found else (0, 0)
    if 0 < zeros < width:
        modifier.get("sparsity")
        return {"sparsity": zeros / width, "pattern": f"{width - zeros}:{width}"}
    if zeros or width or not found:
        notes.leave_out(modifier, "mask_type", "weights are pruned one by one")
    if isinstance(modifier.get("sparsity"), int | float):
        return {"sparsity": modifier.number("sparsity", 0)}
    if modifier.get("sparsity") is not None:
        notes.leave_out(
            modifier, "sparsity", "one for each layer in order: name the weights in pruning.sparsities"
        )
    notes.missing["pruning.sparsity"] = (
        f"the target, which the modifier in line {modifier.line} does not have as a number"
    )
    return {}


def _globs(modifier: Entry, key: str, name: str, notes: Notes) -> list[str]:
    """Return globs for the weights of the modules that a name or an expression selects, and of their submodules."""
    if name in _CLASSES and key == "params":
        notes.differ(modifier, key, "has no matrices outside of the blocks here: add them by pruning.include")
        return []
    if name in _CLASSES:
        notes.leave_out(modifier, key, "a class, not a name: name its weights in pruning.exclude")
        return []
    if not name.startswith("re:"):
        return [f"{name}.*weight"]
    field = "pruning.only" if key == "params" else "pruning.exclude"
    end = ".*weight" if name.endswith("$") else "*weight"
    return [f"{glob}{end}" for glob in noted_globs(modifier, key, name, name[3:], field, notes)]
