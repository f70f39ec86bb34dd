"""The index of a store: made at its end or at the first opening, and files that are checked once per host."""

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from dsprune.distillation.store import (
    ShardWriter,
    StorePlan,
    begin_store,
    finish_store,
    open_store,
    plan_store,
    reader,
)
from dsprune.distillation.store import index as index_module
from dsprune.distillation.store.format import FINGERPRINT
from dsprune.errors import UserError
from dsprune.testing.damage import flip_a_bit
from dsprune.testing.stores import capture, content, plan, spec

PLANNED = plan(spec("hidden"), shard_bytes=500)
INDEX = "index.safetensors"


def format_1(folder: Path) -> Path:
    """A store of an earlier version."""
    values = json.loads((capture(folder, PLANNED) / "store.json").read_text())
    del values["index"]
    (folder / "store.json").write_text(json.dumps(values | {"format": 1}))
    (folder / INDEX).unlink()
    return folder


def capture_zeros(folder: Path, planned: StorePlan) -> Path:
    """A store of logits that are all zero, of one row a record."""
    begin_store(folder, planned)
    for number in range(planned.num_shards):
        writer = ShardWriter(planned, number)
        count = len(writer.samples)
        writer.put(range(count), {"out0": torch.zeros(count, 2)})
        writer.save(folder)
    finish_store(folder, planned, {})
    return folder


def flip_last_bit(path: Path) -> None:
    """Damage a file without a change of its size and time."""
    before = path.stat()
    flip_a_bit(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def records_of(shard: int) -> np.ndarray:
    return PLANNED.fingerprints[PLANNED.records(shard)]


def test_the_index_finds_what_a_set_finds(tmp_path: Path) -> None:
    store = open_store(capture(tmp_path, PLANNED))
    random = np.random.default_rng(0)
    others = np.frombuffer(random.bytes(50 * 16), dtype=FINGERPRINT)
    wanted = random.permutation(np.concatenate([PLANNED.fingerprints, others, others[:3]]))
    known = {one.tobytes() for one in PLANNED.fingerprints}
    assert store.missing(wanted) == [i for i, one in enumerate(wanted) if one.tobytes() not in known]
    assert store.missing([]) == []


def test_fingerprints_with_the_same_beginning_are_told_apart(tmp_path: Path) -> None:
    names = [bytes([1] * 15 + [end]) for end in (2, 4, 6)]
    planned = plan_store(spec(classes=2), {}, np.array(names, dtype=FINGERPRINT))
    index = open_store(capture_zeros(tmp_path, planned))._index
    wanted = [bytes([1] * 15 + [end]) for end in (6, 5, 2, 1, 9, 4)]
    assert index.find(wanted).tolist() == [2, -1, 0, -1, -1, 1]


@pytest.mark.parametrize(("chunk", "block"), [(1, 1), (7, 3), (64, 8), (64, 64), (2**23, 2**13)])
def test_missing_does_not_depend_on_chunks_and_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, block: int
) -> None:
    """Unordered samples with repetitions, several of which have the same first bytes."""
    monkeypatch.setattr(index_module, "CHUNK", chunk)
    monkeypatch.setattr(index_module, "BLOCK", block)
    random = np.random.default_rng(chunk)
    numbers = np.stack(
        [random.integers(2**64, size=300, dtype=np.uint64), np.arange(300, dtype=np.uint64)], 1
    )
    numbers[50:150, 0] = numbers[random.integers(0, 10, 100), 0]  # the first bytes of ten others
    numbers[:2, 0] = 0, 2**64 - 1
    names = numbers.astype(">u8").view(FINGERPRINT)[:, 0]
    known = {one.tobytes() for one in names[::2]}
    index = open_store(capture_zeros(tmp_path, plan_store(spec(classes=2), {}, names[::2])))._index
    wanted = random.permutation(np.concatenate([names, names[:40]]))
    assert index.missing(wanted) == [i for i, one in enumerate(wanted) if one.tobytes() not in known]
    found = index.find(wanted)
    assert [one.tobytes() in known for one in wanted] == (found >= 0).tolist()
    assert (index.fingerprints[found[found >= 0]] == wanted[found >= 0]).all()
    assert index.missing(np.sort(names[::2])) == index.find([]).tolist() == []


def test_missing_takes_no_memory_that_grows_with_the_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "CHUNK", 2**12)
    index = open_store(capture(tmp_path, PLANNED))._index
    tracemalloc.start()
    peaks = []
    for repeats in (2**11, 2**13):
        wanted = np.tile(PLANNED.fingerprints, repeats)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        assert index.missing(wanted) == []
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < wanted.nbytes, peaks


def test_a_store_without_an_index_gets_one_once(tmp_path: Path) -> None:
    whole = content(capture(tmp_path / "new", PLANNED))
    folder = format_1(tmp_path / "old")
    assert open_store(folder).missing(PLANNED.fingerprints) == []
    assert (folder / INDEX).read_bytes() == whole[INDEX]
    made = (folder / INDEX).stat().st_mtime_ns
    assert open_store(folder).fetch(PLANNED.fingerprints)
    assert (folder / INDEX).stat().st_mtime_ns == made


def test_the_index_of_a_read_only_store_is_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = format_1(tmp_path / "old")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    before = content(folder)
    for _ in range(2):
        assert open_store(folder).missing(PLANNED.fingerprints) == []
    assert content(folder) == before
    assert len(list((tmp_path / "cache").rglob(INDEX))) == 1


def test_shards_of_a_store_without_an_index_must_be_in_order(tmp_path: Path) -> None:
    folder = format_1(tmp_path)
    values = json.loads((folder / "store.json").read_text())
    values["shards"].reverse()
    (folder / "store.json").write_text(json.dumps(values))
    with pytest.raises(
        UserError, match=r"store.json: 38 of 38 records are in the listed shards, or not in order"
    ):
        open_store(folder)


def test_a_host_checks_a_file_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    folder = capture(tmp_path, PLANNED)
    open_store(folder)
    damaged = folder / "shard-00001.safetensors"
    flip_last_bit(damaged)
    store = open_store(folder)
    with pytest.raises(UserError, match=f"{damaged.name}: damaged, its content does not match the checksum"):
        store.check()
    os.utime(damaged)
    with pytest.raises(UserError, match=f"{damaged.name}: damaged, its content does not match the checksum"):
        open_store(folder)


def test_a_large_store_is_checked_as_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "SMALL_BYTES", 0)
    folder = capture(tmp_path, PLANNED)
    flip_last_bit(folder / "shard-00001.safetensors")
    store = open_store(folder)
    assert store.fetch(records_of(0))
    with pytest.raises(UserError, match=r"shard-00001.safetensors: damaged, its content does not match"):
        store.fetch(records_of(1))
