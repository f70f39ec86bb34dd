"""`dsprune audit`: does every invariant hold, in the files themselves?"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.table import Table
from torch import Tensor

from dsprune.distributed.comm import Comm
from dsprune.distributed.masks import MaskSet
from dsprune.distributed.masks.files import MANIFEST, MaskManifest, read_manifest, read_masks
from dsprune.engine.checkpoint_files import CheckpointFiles
from dsprune.errors import CheckFailedError, UserError
from dsprune.programs.model_files import ModelFiles
from dsprune.programs.run import RunFolder
from dsprune.pure.masks.audit import Finding, check_shard
from dsprune.pure.schedule import Timetable
from dsprune.pure.selection.groups import event_groups
from dsprune.pure.shard import PrunableTensor, Shard

__all__ = ["audit"]


class Weights(Protocol):
    """Whole tensors by name, from a checkpoint or a model folder."""

    def views(self, name: str) -> Mapping[str, Tensor]:
        """The flattened tensor, in each form that there is of it."""


def audit(path: Path, console: Console) -> None:
    """Check a run (its newest checkpoint and its model), a checkpoint, or a model folder.

    Raises:
        UserError: there is nothing to audit at `path`, or a file is damaged.
        CheckFailedError: an invariant does not hold; names the first offending tensor.
    """
    for folder in _folders(path):
        manifest = read_manifest(folder)
        masks = _read_masks(folder, manifest)
        weights: Weights = (
            ModelFiles(folder) if (folder / "config.json").exists() else CheckpointFiles(folder)
        )
        console.print(_table(folder, manifest, masks))
        findings = [*_check_counts(manifest, masks), *_check_weights(masks, weights)]
        if findings:
            raise CheckFailedError(f"{folder}: {findings[0]} ({len(findings)} findings in all)")
        console.print(f"{folder}: every invariant holds", markup=False, soft_wrap=True)


def _folders(path: Path) -> Iterator[Path]:
    """The folders to check, the ones with a manifest."""
    if (path / MANIFEST).exists():
        yield path
        return
    run = RunFolder(path)
    checkpoints = run.checkpoints if run.checkpoints.is_dir() else path
    found = False
    if (checkpoints / "latest").is_file():
        found = True
        yield checkpoints / (checkpoints / "latest").read_text().strip()
    if run.model.is_dir():
        found = True
        yield run.model
    if not found:
        raise UserError(f"{path}: neither a run, a checkpoint nor a model with masks: nothing to audit")


def _read_masks(folder: Path, manifest: MaskManifest) -> MaskSet:
    """The whole masks, whoever owned what."""
    tensors = [PrunableTensor(name, entry.shape, entry.sparsity) for name, entry in manifest.tensors.items()]
    masks = MaskSet([Shard(tensor, 0, tensor.numel) for tensor in tensors])
    masks.replace(read_masks(folder, manifest, masks.shards))
    if masks.digest(Comm()) != manifest.digest:
        raise UserError(f"{folder}: the masks do not have the digest in {MANIFEST}: use another checkpoint")
    return masks


def _check_counts(manifest: MaskManifest, masks: MaskSet) -> Iterator[Finding]:
    """Every group has exactly the zeros that the newest event asks for: `round(sparsity * num_weights)`."""
    timetable = Timetable.from_dict(manifest.timetable)
    past = [event for event in timetable.events if event.step < manifest.clock]
    progress = timetable.progress(past[-1]) if past else 0.0
    tensors, counts = [shard.tensor for shard in masks.shards], masks.counts(Comm())
    begun_with = [entry.begun_with for entry in manifest.tensors.values()]
    for group in event_groups(tensors, manifest.pruning, progress):
        count = sum(counts[place] for place in group.tensors)
        expected = group.num_pruned if past else sum(begun_with[place] for place in group.tensors)
        if count != expected:
            rule = f"{expected:,} weights are pruned"
            yield Finding(tensors[group.tensors[0]].name, rule, abs(count - expected))


def _check_weights(masks: MaskSet, weights: Weights) -> Iterator[Finding]:
    """Pruned entries are +0.0 in every form of a tensor, and no zero is -0.0."""
    for shard, bits in zip(masks.shards, masks.bits, strict=True):
        views = weights.views(shard.tensor.name)
        for what, view in views.items():
            if view.numel() != shard.numel:
                yield Finding(shard.tensor.name, f"the {what} have {shard.numel:,} entries", view.numel())
                return
        yield from check_shard(shard.tensor.name, bits, views)


def _table(folder: Path, manifest: MaskManifest, masks: MaskSet) -> Table:
    table = Table("tensor", "weights", "zeros", "sparsity", title=f"{folder}, step {manifest.clock}")
    for column in table.columns[1:]:
        column.justify = "right"
    counts = masks.counts(Comm())
    rows = [(s.tensor.name, s.numel, count) for s, count in zip(masks.shards, counts, strict=True)]
    rows.append(("all prunable weights", sum(row[1] for row in rows), sum(counts)))
    for name, numel, count in rows:
        table.add_row(name, f"{numel:,}", f"{count:,}", f"{count / numel:.4f}")
    return table
