"""The audit of a checkpoint, model or store: every checksum, and every invariant of pruning, in its files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from dsprune.checkpoint.compact.format import is_compact, read_compact_manifest
from dsprune.checkpoint.compact.reader import CompactFiles
from dsprune.checkpoint.deepspeed_files import CheckpointFiles, is_checkpoint
from dsprune.checkpoint.file_list import MODEL_LIST, check_file, is_listed, read_model_list
from dsprune.checkpoint.tags import (
    TAG_MANIFEST,
    check_files,
    complete_tags,
    find_checkpoints,
    latest_tag,
    read_tag_list,
)
from dsprune.distillation.store import open_store
from dsprune.distillation.store.format import MANIFEST as STORE
from dsprune.errors import UserError
from dsprune.masks import MaskSet
from dsprune.masks.bits import count_kept
from dsprune.masks.invariants import Finding, check_shard
from dsprune.masks.manifest import MANIFEST, MaskManifest, read_manifest
from dsprune.masks.mask_files import read_complete_masks, read_masks
from dsprune.model.model_files import ModelFiles
from dsprune.model.shard import PrunableTensor
from dsprune.ranks.collectives import Comm
from dsprune.recipe.pattern import Pattern
from dsprune.schedule import MaskUpdate
from dsprune.selection.groups import Group, make_groups
from dsprune.selection.patterned import count_broken
from dsprune.selection.rows import count_rows

__all__ = ["Audit", "audit_all", "audit_folder"]


class Weights(Protocol):
    """Complete tensors by name, from a checkpoint or a model folder."""

    def views(self, name: str) -> Mapping[str, Tensor]:
        """Return the flattened tensor by name of its forms: master weights and moments, or weights alone."""


@dataclass(frozen=True)
class Audit:
    """The result of one folder's audit.

    Attributes:
        folder: the checkpoint, model or store.
        num_files: number of files whose checksum was compared.
        unchecked: what could not be checked, a sentence each.
        step: number of applied optimizer steps when the masks were written.
        tensors: the prunable tensors; empty without masks.
        counts: number of zeros of each tensor.
        regrown: number of kept weights of each tensor that grew back; empty if the recipe lets none grow back.
        findings: violated invariants; empty if all hold.
    """

    folder: Path
    num_files: int
    unchecked: tuple[str, ...] = ()
    step: int = 0
    tensors: tuple[PrunableTensor, ...] = ()
    counts: tuple[int, ...] = ()
    regrown: tuple[int, ...] = ()
    findings: tuple[Finding, ...] = ()

    def failure(self) -> str:
        """Name the first finding and the number of findings."""
        return f"{self.folder}: {self.findings[0]} ({len(self.findings)} findings in all)"

    def success(self) -> str:
        """Return what was found to be right, and what could not be checked."""
        invariants = ["every invariant holds"] if self.tensors else []
        if self.regrown:
            kept = sum(tensor.numel for tensor in self.tensors) - sum(self.counts)
            invariants.append(f"{sum(self.regrown):,} of {kept:,} kept weights grew back")
        files = f"{self.num_files} files have the SHA-256 that is listed"
        return f"{self.folder}: {'; '.join([*invariants, files, *self.unchecked])}"


def audit_all(path: Path) -> Iterator[Audit]:
    """Yield the audit of a checkpoint, model or store, or of the checkpoints and the model of a run.

    Of older checkpoints the checksums alone are compared.

    Raises:
        UserError: there is nothing to audit at `path`, or a file is damaged.
    """
    if any((path / name).exists() for name in (MANIFEST, TAG_MANIFEST, MODEL_LIST, STORE)):
        yield audit_folder(path)
        return
    checkpoints = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    latest, model = latest_tag(checkpoints), path / "model"
    older = [folder for folder in complete_tags(checkpoints) if folder.name != latest]
    # Where a script or a framework has saved them.
    elsewhere = [] if latest or older else find_checkpoints(path)[:1]
    if latest is None and not older and not elsewhere and not model.is_dir():
        raise UserError(
            f"{path}: nothing to audit: give the folder of a run, a checkpoint, a model with masks, or a store"
        )
    if latest is not None:
        yield audit_folder(checkpoints / latest, older)
    for folder in elsewhere:
        yield audit_folder(folder)
    for folder in older:
        yield Audit(folder, *_check_checksums(folder))
    if model.is_dir():
        yield audit_folder(model)


def audit_folder(folder: Path, older: Sequence[Path] = ()) -> Audit:
    """Check every invariant of a folder with masks, and compare every checksum.

    Args:
        folder: a checkpoint, a model or a store.
        older: earlier checkpoints of the same run: what they prune stays pruned, or is marked as regrown.

    Raises:
        UserError: the folder has neither masks nor checksums, or a file is damaged.
    """
    if (folder / STORE).exists():
        store = open_store(folder, verify=False)
        store.check()
        return Audit(folder, store.num_files)
    if _is_dense(folder):
        return Audit(folder, *_check_checksums(folder))
    manifest = read_manifest(folder)
    masks = read_complete_masks(folder, manifest)
    findings = (
        *_check_counts(manifest, masks),
        *_check_updates(manifest, masks),
        *_check_regrown(manifest, masks),
        *(finding for earlier in older for finding in _check_since(earlier, manifest, masks)),
        *_check_pattern(manifest, masks),
        *_check_weights(masks, _weights(folder)),
    )
    # A changed weight is named by its tensor rather than its file.
    num_files, unchecked = (0, ()) if findings else _check_checksums(folder)
    return Audit(
        folder,
        num_files or len(manifest.files),
        unchecked,
        manifest.step,
        tuple(shard.tensor for shard in masks.shards),
        tuple(masks.counts(Comm())),
        tuple(masks.counts_regrown(Comm())) if manifest.regrows else (),
        findings,
    )


def _is_dense(folder: Path) -> bool:
    """Return whether a folder was written without masks, by its list of files."""
    listed = read_tag_list(folder) if is_checkpoint(folder) else read_model_list(folder)
    return bool(listed) and MANIFEST not in (listed or ()) and not (folder / MANIFEST).exists()


def _check_checksums(folder: Path) -> tuple[int, tuple[str, ...]]:
    """Compare the files of a folder with its list; return their number, and what the list does not cover."""
    if is_compact(folder):
        return len(read_compact_manifest(folder).files), ()
    if is_checkpoint(folder):
        num_files = check_files(folder)
        return num_files or 0, () if num_files else (f"no {TAG_MANIFEST}, so only its masks have checksums",)
    listed = read_model_list(folder)
    for name, record in listed.items():
        check_file(
            folder / name, record, MODEL_LIST, f"use another copy, or remove {MODEL_LIST} if you changed it"
        )
    if not listed:
        return 0, (f"no {MODEL_LIST}, so only its masks have checksums",)
    others = sorted(path.name for path in folder.iterdir() if is_listed(path) and path.name not in listed)
    return len(listed), (f"not listed, so not checked: {', '.join(others)}",) if others else ()


def _weights(folder: Path) -> Weights:
    if is_compact(folder):
        return CompactFiles(folder)
    return CheckpointFiles(folder) if is_checkpoint(folder) else ModelFiles(folder)


def _check_counts(manifest: MaskManifest, masks: MaskSet) -> Iterator[Finding]:
    """Check that each group has the number of zeros of the newest mask update: `round(sparsity * num_weights)`."""
    past = _past(manifest)
    progress = manifest.timetable.progress(past[-1]) if past else 0.0
    tensors, counts = [shard.tensor for shard in masks.shards], masks.counts(Comm())
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
    """Return the groups with their zeros at a fraction of the target."""
    sparsities = [progress * entry.target for entry in manifest.tensors.values()]
    return make_groups(tensors, sparsities, manifest.scope, Pattern.parse(manifest.pattern))


def _check_updates(manifest: MaskManifest, masks: MaskSet) -> Iterator[Finding]:
    """Check that every mask update that is recorded was planned, and left the zeros of its sparsity."""
    tensors, everything = [shard.tensor for shard in masks.shards], "all prunable weights"
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
            yield Finding(everything, f"none grows back at step {update.step}", entry.num_regrown)


def _check_regrown(manifest: MaskManifest, masks: MaskSet) -> Iterator[Finding]:
    """Check that only kept weights are marked as regrown, and as many as the manifest says."""
    for shard, kept, marks in zip(masks.shards, masks.bits, masks.regrown, strict=manifest.regrows):
        listed = manifest.tensors[shard.tensor.name].num_regrown
        if wrong := count_kept(marks & ~kept):
            yield Finding(shard.tensor.name, "weights that are marked as regrown are kept", wrong)
        if (found := count_kept(marks)) != listed:
            yield Finding(shard.tensor.name, f"{listed:,} weights are marked as regrown", abs(found - listed))


def _check_since(earlier: Path, manifest: MaskManifest, masks: MaskSet) -> Iterator[Finding]:
    """Check that what an earlier checkpoint prunes is pruned, or marked as regrown."""
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
            rule = f"what {earlier.name} prunes is pruned, or marked as regrown"
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
    """Check that every tile of the pattern is whole, or pruned as the pattern says."""
    pattern = Pattern.parse(manifest.pattern)
    counts = count_broken(masks.shards, masks.bits, pattern, Comm())
    for shard, count in zip(masks.shards, counts, strict=True):
        if count:
            yield Finding(shard.tensor.name, f"its mask has the pattern {pattern.text}", count)


def _check_weights(masks: MaskSet, weights: Weights) -> Iterator[Finding]:
    """Check that pruned entries are +0.0 in every form of each tensor, and that no zero is -0.0."""
    for shard, bits in zip(masks.shards, masks.bits, strict=True):
        views = weights.views(shard.tensor.name)
        for what, view in views.items():
            if view.numel() != shard.numel:
                yield Finding(shard.tensor.name, f"the {what} have {shard.numel:,} entries", view.numel())
                return
        yield from check_shard(shard.tensor.name, bits, views)
