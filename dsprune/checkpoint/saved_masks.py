"""Save the masks of an engine in its checkpoints, and load them."""

from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from dsprune.checkpoint.pruning_state import PruningState
from dsprune.errors import UserError
from dsprune.masks.accumulator_files import read_accumulators
from dsprune.masks.manifest import MaskManifest, read_manifest
from dsprune.masks.mask_files import read_marked_masks, write_masks
from dsprune.ranks.agreement import on_every_rank
from dsprune.ranks.collectives import barrier
from dsprune.ranks.group import announce, current_ranks

__all__ = ["load_masks", "save_masks"]


def save_masks(folder: Path, state: PruningState, step: int, *, accumulators: bool) -> None:
    """Write the masks into a folder. Collective: every rank must call this.

    Args:
        folder: folder of a tag or of a model.
        state: the masks.
        step: number of applied optimizer steps.
        accumulators: whether to write the method's accumulators, which a tag needs to resume.
    """
    # At stage 0 every rank holds a replica, and only rank 0 writes.
    if state.layout.group is not None or current_ranks().is_first:
        write_masks(
            folder,
            state.masks,
            state.comm,
            step=step,
            timetable=state.timetable,
            pruning=state.pruning,
            initial_pruned=state.initial_pruned,
            updates=state.updates,
            accumulators=state.accumulators if accumulators else None,
        )
    barrier()


def load_masks(folder: Path, state: PruningState, step: int) -> None:
    """Load the masks and accumulators of a checkpoint, after its weights. Collective: every rank must call this.

    Raises:
        UserError: the folder has no masks, or they do not belong to these weights, this timetable or this method.
    """
    manifest, bits, regrown = on_every_rank(lambda: _read(folder, state, step))
    state.restore(bits, regrown, manifest.updates)
    if state.regrows and not manifest.regrows:
        announce(f"{folder}: does not mark regrown weights; only those that grow back from now on are marked")
    state.initial_pruned = [entry.initial_pruned for entry in manifest.tensors.values()]
    if state.masks.digest(state.comm) != manifest.digest:
        raise UserError(f"{folder}: the masks do not have the digest in the manifest: use another checkpoint")
    on_every_rank(lambda: _check_weights(folder, state))
    state.reset_accumulators(step)
    on_every_rank(lambda: read_accumulators(folder, manifest, state.accumulators))


def _read(folder: Path, state: PruningState, step: int) -> tuple[MaskManifest, list[Tensor], list[Tensor]]:
    """Return the manifest, this rank's packed masks, and its marks of regrown weights."""
    manifest = read_manifest(folder)
    ours, theirs = asdict(state.timetable), asdict(manifest.timetable)
    if differing := [field for field in ours if ours[field] != theirs[field]]:
        field = differing[0]
        raise UserError(
            f"{folder}: its timetable has {field}={theirs[field]}, this run's has {ours[field]}: "
            f"resume with the recipe that it was written with"
        )
    for field in ("pattern", "scope"):
        written, wanted = getattr(manifest, field), getattr(state.pruning, field)
        if written != wanted:
            raise UserError(
                f"{folder}: its {field} is {written}, this run's pruning.{field} is {wanted}: resume with the recipe "
                f"that it was written with"
            )
    if manifest.step != step:
        raise UserError(
            f"{folder}: masks of step {manifest.step}, weights of step {step}: use another checkpoint"
        )
    if manifest.regrows and not state.regrows:
        raise UserError(
            f"{folder}: has regrown weights, but pruning.method={state.pruning.method} with "
            f"pruning.curve={state.pruning.curve} lets none grow back: resume with the recipe that it was written with"
        )
    return manifest, *read_marked_masks(folder, manifest, state.layout.shards)


def _check_weights(folder: Path, state: PruningState) -> None:
    if findings := state.audit():
        raise UserError(
            f"{folder}: {findings[0]}: the masks do not belong to these weights: use another checkpoint"
        )
