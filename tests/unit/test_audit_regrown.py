"""The audit of runs whose weights grow back: every mask update is checked, and no weight grows back unmarked."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from dsprune.checkpoint.audit import audit_folder
from dsprune.commands.cli import run_command
from dsprune.masks.bits import pack, unpack
from dsprune.masks.manifest import MANIFEST, MaskManifest, read_manifest
from dsprune.masks.mask_files import read_complete_masks, write_masks
from dsprune.masks.mask_set import MaskSet
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Pruning
from tests.unit.sparse import QUERY, TIMETABLE, sparse_bert

STEP = TIMETABLE.updates[-1].step


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return sparse_bert(tmp_path / "model")


def write(folder: Path, masks: MaskSet, **settings: Any) -> MaskManifest:
    pruning = Pruning(sparsity=0.8, scope="uniform")
    write_masks(folder, masks, Comm(), timetable=TIMETABLE, pruning=pruning, **settings)
    return read_manifest(folder)


def record(folder: Path, update: Mapping[str, int]) -> list[str]:
    """Add a mask update to the manifest, and return the violated rules."""
    values = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(values | {"updates": [update]}))
    return [finding.rule for finding in audit_folder(folder).findings]


def test_the_count_of_every_mask_update_is_checked(folder: Path) -> None:
    zeros = sum(entry.num_pruned for entry in read_manifest(folder).tensors.values())
    assert record(folder, {"step": STEP, "num_pruned": zeros}) == []
    wrong = record(folder, {"step": STEP, "num_pruned": zeros - 1})
    assert wrong == [f"{zeros:,} weights are pruned by the mask update at step {STEP}"]
    assert record(folder, {"step": STEP + 1, "num_pruned": zeros}) == [
        "the mask updates are those of the timetable"
    ]
    again = record(folder, {"step": STEP, "num_pruned": zeros, "num_regrown": 3})
    assert again == [f"no weight grows back at step {STEP}"]


def mark(folder: Path, places: list[int]) -> MaskSet:
    """Mark some weights of a tensor as regrown in the masks of a folder."""
    found = read_complete_masks(folder, read_manifest(folder))
    masks = MaskSet(found.shards, regrows=True)
    marks = [torch.zeros(shard.numel, dtype=torch.bool) for shard in masks.shards]
    index = [shard.tensor.name for shard in masks.shards].index(QUERY)
    marks[index][places] = True
    masks.replace(found.bits, [pack(row) for row in marks])
    return masks


def kept_places(folder: Path) -> list[int]:
    masks = read_complete_masks(folder, read_manifest(folder))
    [bits] = [row for shard, row in zip(masks.shards, masks.bits, strict=True) if shard.tensor.name == QUERY]
    return unpack(bits, 36).nonzero().view(-1).tolist()


def test_regrown_weights_are_counted_and_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = kept_places(folder)
    write(folder, mark(folder, places[:2]), step=10)
    audit = audit_folder(folder)
    assert (audit.findings, sum(audit.regrown)) == ((), 2)
    kept = sum(tensor.numel for tensor in audit.tensors) - sum(audit.counts)
    assert f"2 of {kept} kept weights grew back" in audit.success()
    assert run_command(["audit", str(folder)]) == 0
    assert "regrown" in capsys.readouterr().out
    [pruned] = [place for place in range(36) if place not in places][:1]
    write(folder, mark(folder, [pruned]), step=10)
    assert [str(finding) for finding in audit_folder(folder).findings] == [
        f"{QUERY}: weights that are marked as regrown are kept: 1 entries violate it"
    ]
    values = json.loads((folder / MANIFEST).read_text())
    values["tensors"][QUERY]["num_regrown"] = 5
    (folder / MANIFEST).write_text(json.dumps(values))
    assert "5 weights are marked as regrown" in [finding.rule for finding in audit_folder(folder).findings]


def test_what_an_earlier_checkpoint_prunes_returns_with_a_mark_only(folder: Path, tmp_path: Path) -> None:
    masks, earlier = read_complete_masks(folder, read_manifest(folder)), tmp_path / "earlier"
    place = kept_places(folder)[0]
    index = [shard.tensor.name for shard in masks.shards].index(QUERY)
    before = [unpack(bits, shard.numel) for shard, bits in zip(masks.shards, masks.bits, strict=True)]
    before[index][place] = False
    old = MaskSet(masks.shards)
    old.replace([pack(row) for row in before])
    write(earlier, old, step=5)
    zeros = sum(entry.num_pruned for entry in read_manifest(folder).tensors.values())
    record(folder, {"step": STEP, "num_pruned": zeros})
    rule = "weights pruned in earlier are pruned, or marked as regrown"
    assert [(f.tensor, f.rule, f.count) for f in audit_folder(folder, [earlier]).findings] == [
        (QUERY, rule, 1)
    ]
    write(folder, mark(folder, [place]), step=10)
    record(folder, {"step": STEP, "num_pruned": zeros, "num_regrown": 1})
    assert audit_folder(folder, [earlier]).findings == ()
