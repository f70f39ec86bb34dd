"""Accumulators in memory and on disk."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsprune.checkpoint.model_folder import copy_masks
from dsprune.errors import UserError
from dsprune.masks.accumulator_files import read_accumulators
from dsprune.masks.accumulator_set import AccumulatorSet
from dsprune.masks.manifest import MANIFEST, MaskManifest, read_manifest
from dsprune.masks.mask_files import read_complete_masks, write_masks
from dsprune.masks.mask_set import MaskSet
from dsprune.methods.method import Accumulator
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Pruning
from dsprune.schedule import MaskUpdate, Timetable
from dsprune.testing.methods import cut_randomly
from dsprune.utils.files import sha256_of

TENSORS = [PrunableTensor("a.weight", (5, 7)), PrunableTensor("b.weight", (11,))]
KEPT = (Accumulator("sum", whole_run=True), Accumulator("short", torch.bfloat16))
TIMETABLE = Timetable(10, 10, 0, (MaskUpdate(2, 0.5), MaskUpdate(6, 0.9)), True, 0.1, 0.1, 0.0)


def shards() -> list[Shard]:
    return [Shard(tensor, 0, tensor.numel) for tensor in TENSORS]


def filled(parts: Sequence[Shard]) -> AccumulatorSet:
    """Values that identify their place."""
    found = AccumulatorSet(parts, KEPT)
    for shard, row in zip(parts, found.values, strict=True):
        row["sum"].copy_(torch.arange(shard.start, shard.start + shard.numel) + 0.25)
        row["short"].copy_(torch.arange(shard.start, shard.start + shard.numel))
    return found


def written(folder: Path) -> MaskManifest:
    write_masks(
        folder, MaskSet(shards()), Comm(), step=3, timetable=TIMETABLE, pruning=Pruning(sparsity=0.9),
        accumulators=filled(shards()),
    )  # fmt: skip
    return read_manifest(folder)


def test_a_rank_without_prunable_weights_has_nothing_to_add() -> None:
    kept = AccumulatorSet([Shard(tensor, 0, 0) for tensor in TENSORS], KEPT)
    for index in range(len(TENSORS)):
        assert list(kept.parts(index)) == []
    kept.finish_staging()
    kept.settle(applied=True)
    assert [{name: len(values) for name, values in row.items()} for row in kept.values] == [
        {"sum": 0, "short": 0}
    ] * 2


def test_a_skipped_step_leaves_the_values() -> None:
    kept = filled(shards())
    before = [row["sum"].clone() for row in kept.values]
    for applied in (False, True):
        for index, shard in enumerate(kept.shards):
            for part in kept.parts(index):
                added = torch.arange(shard.numel)[part].float()
                kept.stage(index, part, {"sum": added, "short": torch.ones_like(added)})
        kept.finish_staging()
        assert kept.newest(0)["sum"][1:5].tolist() == [2.25, 4.25, 6.25, 8.25]
        assert kept.newest(1)["short"][1:5].tolist() == [2.0, 3.0, 4.0, 5.0]
        assert kept.values[0]["sum"].equal(before[0])
        kept.settle(applied=applied)
        assert kept.newest(0)["sum"].equal(kept.values[0]["sum"])
    assert kept.values[0]["sum"][1:5].tolist() == [2.25, 4.25, 6.25, 8.25]
    assert kept.values[1]["short"].dtype == torch.bfloat16


def test_an_interval_begins_at_zero_but_for_what_is_kept_for_the_whole_run() -> None:
    kept = filled(shards())
    kept.begin_interval()
    assert all(row["sum"].any() for row in kept.values)
    assert not any(row["short"].any() for row in kept.values)


def test_memory_is_that_of_the_number_formats() -> None:
    assert filled(shards()).nbytes == (4 + 2) * (35 + 11)
    assert AccumulatorSet(shards(), ()).nbytes == 0


@pytest.mark.parametrize("world", [1, 2, 3])
def test_any_number_of_ranks_reads_its_own_part(tmp_path: Path, world: int) -> None:
    manifest = written(tmp_path)
    assert manifest.accumulators == {"sum": "float32", "short": "bfloat16"}
    for rank in cut_randomly(TENSORS, world, seed=world):
        found = AccumulatorSet(rank, KEPT)
        read_accumulators(tmp_path, manifest, found)
        for row, expected in zip(found.values, filled(rank).values, strict=True):
            assert all(row[name].equal(expected[name]) for name in ("sum", "short"))


def test_a_model_and_a_method_that_keeps_nothing_have_no_file(tmp_path: Path) -> None:
    for kept in (None, AccumulatorSet(shards(), ())):
        write_masks(
            tmp_path, MaskSet(shards()), Comm(), step=3, timetable=TIMETABLE, pruning=Pruning(sparsity=0.9),
            accumulators=kept,
        )  # fmt: skip
        assert list(tmp_path.glob("accumulators-*")) == []
        read_accumulators(tmp_path, read_manifest(tmp_path), AccumulatorSet(shards(), ()))


def test_an_exported_model_has_the_masks_alone(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    written(tmp_path)
    copy_masks(tmp_path, folder)
    manifest = read_manifest(folder)
    assert (manifest.accumulators, manifest.accumulator_files) == ({}, ())
    assert {path.name for path in folder.iterdir()} == {MANIFEST, *(entry.file for entry in manifest.files)}
    assert read_complete_masks(folder, manifest).digest(Comm()) == manifest.digest


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ((), "short (bfloat16), and pruning.method keeps no accumulators: "),
        ((Accumulator("movement"),), "short (bfloat16), and pruning.method keeps movement (float32): "),
        ((KEPT[0], Accumulator("short")), "and pruning.method keeps sum (float32), short (float32): "),
    ],
)
def test_another_method_is_refused(tmp_path: Path, declared: tuple[Accumulator, ...], message: str) -> None:
    manifest = written(tmp_path)
    with pytest.raises(UserError) as refused:
        read_accumulators(tmp_path, manifest, AccumulatorSet(shards(), declared))
    assert str(refused.value).startswith(f"{tmp_path / MANIFEST}: holds sum (float32), ")
    assert message in str(refused.value)


def test_a_missing_damaged_or_incomplete_file_is_refused(tmp_path: Path) -> None:
    manifest = written(tmp_path)
    [path] = tmp_path.glob("accumulators-*")
    [entry] = manifest.accumulator_files
    whole = path.read_bytes()

    def message(changed: MaskManifest = manifest) -> str:
        with pytest.raises(UserError) as refused:
            read_accumulators(tmp_path, changed, AccumulatorSet(shards(), KEPT))
        return str(refused.value)

    short = replace_entries(manifest, entry.model_copy(update={"slices": {"b.weight": (0, 11)}}))
    assert f"{tmp_path / MANIFEST}: a.weight has 0 of 35 accumulators" in message(short)
    path.write_bytes(whole[:-1] + b"x")
    assert f"{path}: damaged" in message()
    save_file({key: value for key, value in load_file_of(whole, tmp_path).items() if "sum" in key}, path)
    other = replace_entries(manifest, entry.model_copy(update={"sha256": sha256_of(path)}))
    assert f"{path}: does not hold the 35 accumulators of a.weight" in message(other)
    path.unlink()
    assert f"{path}: missing" in message()


def replace_entries(manifest: MaskManifest, entry: object) -> MaskManifest:
    return manifest.model_copy(update={"accumulator_files": (entry,)})


def load_file_of(content: bytes, folder: Path) -> dict[str, torch.Tensor]:
    copy = folder / "copy.safetensors"
    copy.write_bytes(content)
    return load_file(copy)


def test_a_shard_is_read_where_it_is(tmp_path: Path) -> None:
    part = replace(shards()[0], start=10, numel=5)
    found = AccumulatorSet([part, replace(shards()[1], numel=0)], KEPT)
    read_accumulators(tmp_path, written(tmp_path), found)
    assert found.values[0]["sum"].tolist() == [10.25, 11.25, 12.25, 13.25, 14.25]
