"""The audit of a checkpoint or model folder: every invariant of pruning is checked in its files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from dsprune.checkpoint.compact.format import is_compact
from dsprune.checkpoint.compact.reader import CompactFiles
from dsprune.checkpoint.deepspeed_files import CheckpointFiles, is_checkpoint
from dsprune.checkpoint.tags import latest_tag
from dsprune.errors import UserError
from dsprune.masks import MaskSet
from dsprune.masks.manifest import MANIFEST, MaskManifest, read_manifest
from dsprune.masks.mask_files import read_complete_masks
from dsprune.masks.mask_set import Finding, check_shard
from dsprune.model.model_files import ModelFiles
from dsprune.model.shard import PrunableTensor
from dsprune.ranks.collectives import Comm
from dsprune.selection.groups import make_groups

__all__ = ["Audit", "audit_folder", "folders_to_audit"]


class Weights(Protocol):
    """Complete tensors by name, from a checkpoint or a model folder."""

    def views(self, name: str) -> Mapping[str, Tensor]:
        """Return the flattened tensor by name of its forms: master weights and moments, or weights alone."""


@dataclass(frozen=True)
class Audit:
    """The result of one folder's audit.

    Attributes:
        folder: the checkpoint or model folder.
        step: number of applied optimizer steps when it was written.
        tensors: the prunable tensors.
        counts: number of zeros of each tensor.
        findings: violated invariants; empty if all hold.
    """

    folder: Path
    step: int
    tensors: tuple[PrunableTensor, ...]
    counts: tuple[int, ...]
    findings: tuple[Finding, ...]

    def failure(self) -> str:
        """Name the first finding and the number of findings."""
        return f"{self.folder}: {self.findings[0]} ({len(self.findings)} findings in all)"


def folders_to_audit(path: Path) -> list[Path]:
    """Return the folders with masks: `path` itself, or the newest checkpoint and the model of a run.

    Raises:
        UserError: there is nothing to audit at `path`.
    """
    if (path / MANIFEST).exists():
        return [path]
    checkpoints = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    found = []
    if (tag := latest_tag(checkpoints)) is not None:
        found.append(checkpoints / tag)
    if (path / "model").is_dir():
        found.append(path / "model")
    if not found:
        raise UserError(f"{path}: neither a run, a checkpoint nor a model with masks: nothing to audit")
    return found


def audit_folder(folder: Path) -> Audit:
    """Check every invariant of a checkpoint or model folder.

    Raises:
        UserError: the folder has no masks, or a file is damaged.
    """
    manifest = read_manifest(folder)
    masks = read_complete_masks(folder, manifest)
    weights = _weights(folder)
    return Audit(
        folder,
        manifest.step,
        tuple(shard.tensor for shard in masks.shards),
        tuple(masks.counts(Comm())),
        (*_check_counts(manifest, masks), *_check_weights(masks, weights)),
    )


def _weights(folder: Path) -> Weights:
    if is_compact(folder):
        return CompactFiles(folder)
    return CheckpointFiles(folder) if is_checkpoint(folder) else ModelFiles(folder)


def _check_counts(manifest: MaskManifest, masks: MaskSet) -> Iterator[Finding]:
    """Check that each group has the number of zeros of the newest mask update: `round(sparsity * num_weights)`."""
    past = [update for update in manifest.timetable.updates if update.step < manifest.step]
    progress = manifest.timetable.progress(past[-1]) if past else 0.0
    tensors, counts = [shard.tensor for shard in masks.shards], masks.counts(Comm())
    entries = list(manifest.tensors.values())
    sparsities = [progress * entry.target for entry in entries]
    for group in make_groups(tensors, sparsities, manifest.scope):
        count = sum(counts[place] for place in group.tensors)
        initial = sum(entries[place].initial_pruned for place in group.tensors)
        expected = group.num_pruned if past else initial
        if count != expected:
            rule = f"{expected:,} weights are pruned"
            yield Finding(tensors[group.tensors[0]].name, rule, abs(count - expected))


def _check_weights(masks: MaskSet, weights: Weights) -> Iterator[Finding]:
    """Check that pruned entries are +0.0 in every form of each tensor, and that no zero is -0.0."""
    for shard, bits in zip(masks.shards, masks.bits, strict=True):
        views = weights.views(shard.tensor.name)
        for what, view in views.items():
            if view.numel() != shard.numel:
                yield Finding(shard.tensor.name, f"the {what} have {shard.numel:,} entries", view.numel())
                return
        yield from check_shard(shard.tensor.name, bits, views)
