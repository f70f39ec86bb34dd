"""Audit a checkpoint, model or store: every checksum and every invariant of pruning in its files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from dsprune.checkpoint.compact.format import is_compact, read_compact_manifest
from dsprune.checkpoint.compact.reader import CompactFiles
from dsprune.checkpoint.deepspeed_files import CheckpointFiles, is_checkpoint
from dsprune.checkpoint.file_list import MODEL_LIST, check_file, is_listed, read_model_list
from dsprune.checkpoint.mask_checks import check_masks
from dsprune.checkpoint.tag_files import TAG_MANIFEST, check_files, read_tag_list
from dsprune.checkpoint.tags import complete_tags, find_checkpoints, latest_tag
from dsprune.distillation.store import open_store
from dsprune.distillation.store.format import MANIFEST as STORE
from dsprune.errors import UserError
from dsprune.masks.invariants import Finding, check_shard
from dsprune.masks.manifest import MANIFEST, read_manifest
from dsprune.masks.mask_files import read_complete_masks
from dsprune.masks.mask_set import MaskSet
from dsprune.model.model_files import ModelFiles
from dsprune.model.shard import PrunableTensor
from dsprune.ranks.collectives import Comm

__all__ = ["Audit", "audit_all", "audit_folder"]


class Weights(Protocol):
    """Complete tensors by name, from a checkpoint or a model folder."""

    def views(self, name: str) -> Mapping[str, Tensor]:
        """Return the flattened forms of a tensor by name: master weights and moments, or only weights."""


@dataclass(frozen=True)
class Audit:
    """The result of one folder's audit.

    Attributes:
        folder: the checkpoint, model or store.
        num_files: number of files whose checksum was compared.
        unchecked: sentences on the parts that could not be checked.
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
        """Describe what was checked, and what could not be checked."""
        invariants = ["every invariant holds"] if self.tensors else []
        if self.regrown:
            kept = sum(tensor.numel for tensor in self.tensors) - sum(self.counts)
            invariants.append(f"{sum(self.regrown):,} of {kept:,} kept weights grew back")
        files = f"{self.num_files} files match their listed SHA-256"
        return f"{self.folder}: {'; '.join([*invariants, files, *self.unchecked])}"


def audit_all(path: Path) -> Iterator[Audit]:
    """Yield the audit of a checkpoint, model or store, or of the checkpoints and the model of a run.

    Of older checkpoints only the checksums are compared.

    Raises:
        UserError: there is nothing to audit at `path`, or a file is damaged.
    """
    if any((path / name).exists() for name in (MANIFEST, TAG_MANIFEST, MODEL_LIST, STORE)):
        yield audit_folder(path)
        return
    checkpoints = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    latest, model = latest_tag(checkpoints), path / "model"
    older = [folder for folder in complete_tags(checkpoints) if folder.name != latest]
    # Checkpoints of a script or a framework.
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
    """Check every invariant of a checkpoint, model or store, and compare every checksum.

    Weights that `older` checkpoints of the same run prune must be pruned, or marked as regrown.

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
    findings = (*check_masks(manifest, masks, older), *_check_weights(masks, _weights(folder)))
    # A changed weight is named by its tensor rather than its file.
    num_files, unchecked = (0, ()) if findings else _check_checksums(folder)
    return Audit(
        folder,
        num_files or len(manifest.files),
        unchecked,
        manifest.step,
        masks.tensors,
        tuple(masks.counts(Comm())),
        tuple(masks.counts_regrown(Comm())) if manifest.regrows else (),
        findings,
    )


def _is_dense(folder: Path) -> bool:
    """Return whether a folder was written without masks, by its list of files."""
    listed = read_tag_list(folder) if is_checkpoint(folder) else read_model_list(folder)
    return bool(listed) and MANIFEST not in (listed or ()) and not (folder / MANIFEST).exists()


def _check_checksums(folder: Path) -> tuple[int, tuple[str, ...]]:
    """Compare the files of a folder with its list; return their number, and the files that the list does not cover."""
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


def _check_weights(masks: MaskSet, weights: Weights) -> Iterator[Finding]:
    """Check that pruned entries are +0.0 in every form of each tensor, and that no zero is -0.0."""
    for shard, bits in zip(masks.shards, masks.bits, strict=True):
        views = weights.views(shard.tensor.name)
        for what, view in views.items():
            if view.numel() != shard.numel:
                yield Finding(shard.tensor.name, f"the {what} have {shard.numel:,} entries", view.numel())
                return
        yield from check_shard(shard.tensor.name, bits, views)
