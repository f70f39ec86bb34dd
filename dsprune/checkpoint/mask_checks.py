"""Check masks on disk: their counts, mask updates, marks, rows and pattern agree with their manifest."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import torch

from dsprune.masks.bits import count_kept
from dsprune.masks.invariants import Finding
from dsprune.masks.manifest import MANIFEST, MaskManifest, read_manifest
from dsprune.masks.mask_files import read_masks
from dsprune.masks.mask_set import MaskSet
from dsprune.model.shard import PrunableTensor
from dsprune.ranks.collectives import Comm
from dsprune.recipe.pattern import Pattern
from dsprune.schedule import MaskUpdate
from dsprune.selection.groups import Group, make_groups
from dsprune.selection.patterned import count_broken
from dsprune.selection.rows import count_rows

__all__ = ["check_masks"]


def check_masks(manifest: MaskManifest, masks: MaskSet, older: Sequence[Path]) -> Iterator[Finding]:
    """Check the complete masks of a folder, and yield each violation.

    Weights that `older` checkpoints of the same run prune must be pruned, or marked as regrown.
    """
    yield from _check_counts(manifest, masks)
    yield from _check_updates(manifest, masks)
    yield from _check_regrown(manifest, masks)
    for earlier in older:
        yield from _check_since(earlier, manifest, masks)
    yield from _check_pattern(manifest, masks)


def _check_counts(manifest: MaskManifest, masks: MaskSet) -> Iterator[Finding]:
    """Check that each group has the number of zeros of the newest mask update: `round(sparsity * num_weights)`."""
    past = _past(manifest)
    progress = manifest.timetable.progress(past[-1]) if past else 0.0
    tensors, counts = masks.tensors, masks.counts(Comm())
    entries, groups = list(manifest.tensors.values()), _groups(manifest, tensors, progress)
    yield from _check_rows(masks, [group for group in groups if past and group.num_rows > 1])
    for group in groups:
        count = sum(counts[place] for place in group.tensors)
        initial = sum(entries[place].initial_pruned for place in group.tensors)
        expected = group.num_pruned if past else initial
        if count != expected:
            rule = f"{expected:,} weights are pruned"
            yield Finding(tensors[group.tensors[0]].name, rule, abs(count - expected))


def _past(manifest: MaskManifest) -> list[MaskUpdate]:
    return [update for update in manifest.timetable.updates if update.step < manifest.step]


def _groups(manifest: MaskManifest, tensors: Sequence[PrunableTensor], progress: float) -> list[Group]:
    """Return the groups with their numbers of zeros at a fraction of the target."""
    sparsities = [progress * entry.target for entry in manifest.tensors.values()]
    return make_groups(tensors, sparsities, manifest.scope, Pattern.parse(manifest.pattern))


def _check_updates(manifest: MaskManifest, masks: MaskSet) -> Iterator[Finding]:
    """Check that every recorded mask update was planned, and has the number of zeros of its sparsity."""
    tensors, everything = masks.tensors, "all prunable weights"
    past = _past(manifest)[-len(manifest.updates) :] if manifest.updates else []
    if [update.step for update in past] != [entry.step for entry in manifest.updates]:
        yield Finding(everything, "the mask updates are those of the timetable", len(manifest.updates))
        return
    zeros = cache(lambda progress: sum(group.num_pruned for group in _groups(manifest, tensors, progress)))
    for update, entry in zip(past, manifest.updates, strict=True):
        expected = zeros(manifest.timetable.progress(update))
        if entry.num_pruned != expected:
            rule = f"{expected:,} weights are pruned by the mask update at step {update.step}"
            yield Finding(everything, rule, abs(entry.num_pruned - expected))
        if entry.num_regrown and not manifest.regrows:
            yield Finding(everything, f"no weight grows back at step {update.step}", entry.num_regrown)


def _check_regrown(manifest: MaskManifest, masks: MaskSet) -> Iterator[Finding]:
    """Check that only kept weights are marked as regrown, in the number that the manifest records."""
    for shard, kept, marks in zip(masks.shards, masks.bits, masks.regrown, strict=manifest.regrows):
        listed = manifest.tensors[shard.tensor.name].num_regrown
        if wrong := count_kept(marks & ~kept):
            yield Finding(shard.tensor.name, "weights that are marked as regrown are kept", wrong)
        if (found := count_kept(marks)) != listed:
            yield Finding(shard.tensor.name, f"{listed:,} weights are marked as regrown", abs(found - listed))


def _check_since(earlier: Path, manifest: MaskManifest, masks: MaskSet) -> Iterator[Finding]:
    """Check that weights that an earlier checkpoint prunes are pruned, or marked as regrown."""
    if not (earlier / MANIFEST).is_file() or not manifest.updates:
        return
    before = read_manifest(earlier)
    if before.timetable != manifest.timetable or before.step >= manifest.step:
        return  # of another run
    marks = masks.regrown or [torch.zeros_like(bits) for bits in masks.bits]
    for shard, old, new, mark in zip(
        masks.shards, read_masks(earlier, before, masks.shards), masks.bits, marks, strict=True
    ):
        if count := count_kept(new & ~old & ~mark):
            rule = f"weights pruned in {earlier.name} are pruned, or marked as regrown"
            yield Finding(shard.tensor.name, rule, count)


def _check_rows(masks: MaskSet, groups: Sequence[Group]) -> Iterator[Finding]:
    """Check that all rows of a group have the same number of zeros."""
    for group in groups:
        [place] = group.tensors
        wrong = count_rows([masks.shards[place]], [masks.bits[place]], [group], torch.ne, Comm())
        if sum(wrong):
            rule = f"{group.num_pruned // group.num_rows:,} weights of each row are pruned"
            yield Finding(masks.shards[place].tensor.name, rule, sum(wrong))


def _check_pattern(manifest: MaskManifest, masks: MaskSet) -> Iterator[Finding]:
    """Check that every tile is whole, or pruned by the pattern."""
    pattern = Pattern.parse(manifest.pattern)
    counts = count_broken(masks.shards, masks.bits, pattern, Comm())
    for shard, count in zip(masks.shards, counts, strict=True):
        if count:
            yield Finding(shard.tensor.name, f"its mask has the pattern {pattern.text}", count)
