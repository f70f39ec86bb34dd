"""Reading returns the written values, for every kind and type, in any order and repeatedly."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dsprune.distillation import FullSignal, Head, HiddenSignal, TopKSignal
from dsprune.distillation.store import (
    ShardWriter,
    Store,
    StoreSpec,
    fingerprint,
    fingerprints,
    open_store,
    reader,
)
from dsprune.distillation.store.codecs import codec_for
from dsprune.distillation.store.packed import pack, unpack
from dsprune.distillation.store.tensor_file import TensorFile
from dsprune.errors import UserError
from dsprune.testing.commands import TIMEOUT
from dsprune.testing.stores import ORIGIN, TEMPERATURES, capture, logits, plan, said, samples, spec
from dsprune.utils.dtypes import DTYPES

KINDS = ["full", "topk", "hidden"]
ROUNDING = {"fp32": 1e-6, "fp16": 2**-11, "bf16": 2**-8}


def stored(folder: Path, store: StoreSpec) -> Store:
    return open_store(capture(folder, plan(store, shard_bytes=500)), ORIGIN)


def shuffled(seed: int, count: int = 30) -> list[list[int]]:
    return random.Random(seed).choices(samples(), k=count)


def probabilities(
    signal: FullSignal | TopKSignal | HiddenSignal, student: Tensor, temperature: float
) -> Tensor:
    student = torch.log_softmax(student / temperature, -1)
    return signal.log_probs(slice(None), temperature, student).exp()


@pytest.mark.parametrize("dtype", DTYPES)
def test_full_logits_are_those_of_the_teacher_in_the_type_of_the_store(tmp_path: Path, dtype: str) -> None:
    kept = spec("full", dtype)
    store, wanted = stored(tmp_path, kept), shuffled(0)
    block = store.fetch(fingerprints({"input_ids": wanted}))["out0"]
    expected = torch.cat([said(kept, "out0", sample) for sample in wanted]).to(DTYPES[dtype])
    assert isinstance(block.signal, FullSignal)
    torch.testing.assert_close(block.signal.logits, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_hidden_states_and_head_give_the_logits_of_the_teacher(tmp_path: Path, dtype: str) -> None:
    kept = spec("hidden", dtype)
    store, wanted = stored(tmp_path, kept), shuffled(0)
    signal = store.fetch(fingerprints({"input_ids": wanted}))["out0"].signal
    assert isinstance(signal, HiddenSignal)
    expected = torch.cat([said(kept, "out0", sample) for sample in wanted]).to(DTYPES[dtype])
    torch.testing.assert_close(signal.hidden, expected, rtol=0, atol=0)
    for temperature in (0.5, 1.0, 7.0):
        oracle = torch.cat([logits(kept, "out0", sample) for sample in wanted]).div(temperature).softmax(-1)
        found = probabilities(signal, torch.zeros_like(oracle), temperature)
        torch.testing.assert_close(found, oracle, rtol=0, atol=100 * ROUNDING[dtype])


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("classes", [5, 300, 70_000])
def test_top_k_keeps_the_largest_and_the_mass_of_the_rest(tmp_path: Path, dtype: str, classes: int) -> None:
    kept = spec("topk", dtype, classes)
    wanted = shuffled(0, 5)
    store = open_store(capture(tmp_path, plan(kept, shuffled(0, 5)), shuffled(0, 5)), ORIGIN)
    signal = store.fetch(fingerprints({"input_ids": wanted}))["out0"].signal
    assert isinstance(signal, TopKSignal)
    oracle = torch.cat([said(kept, "out0", sample) for sample in wanted]).double()
    top = oracle.topk(min(8, classes))
    assert torch.equal(signal.indices.long(), top.indices)
    for temperature in TEMPERATURES:
        expected = (oracle / temperature).softmax(-1)
        found = probabilities(signal, torch.randn(oracle.shape), temperature).double()
        torch.testing.assert_close(
            found.gather(1, top.indices),
            expected.gather(1, top.indices),
            rtol=40 * ROUNDING[dtype],
            atol=1e-6,
        )
        torch.testing.assert_close(found.sum(-1), torch.ones(len(found)).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("classes", [5, 300, 70_000])
def test_packed_top_k_keeps_the_order_and_the_mass_and_is_close(tmp_path: Path, classes: int) -> None:
    kept, wanted = spec("topk", "packed", classes), shuffled(0, 5)
    store = open_store(capture(tmp_path, plan(kept, wanted), wanted), ORIGIN)
    signal = store.fetch(fingerprints({"input_ids": wanted}))["out0"].signal
    oracle = torch.cat([said(kept, "out0", sample) for sample in wanted])
    top = oracle.topk(min(8, classes)).indices
    assert isinstance(signal, TopKSignal)
    assert torch.equal(signal.indices.long(), top)
    for temperature in TEMPERATURES:
        expected = (oracle / temperature).softmax(-1)
        found = probabilities(signal, torch.zeros_like(oracle), temperature)
        masses = (one.gather(1, top).sum(-1) for one in (found, expected))
        torch.testing.assert_close(*masses, rtol=5e-3, atol=0)
        error = torch.nn.functional.kl_div(
            found.gather(1, top).log(), expected.gather(1, top), reduction="batchmean"
        )
        assert error < 2e-3


@pytest.mark.parametrize("k", [1, 2, 7, 50, 64])
@pytest.mark.parametrize("bits", [1, 8, 15, 17, 18])
def test_indices_are_packed_and_unpacked(k: int, bits: int) -> None:
    indices = torch.randint(2**bits, (9, k), generator=torch.Generator().manual_seed(k))
    assert torch.equal(unpack(pack(indices, bits), bits, k).long(), indices)


def test_an_excluded_class_cannot_be_packed() -> None:
    store = spec("topk", "packed", 4)
    with pytest.raises(
        UserError, match=r"-inf among the k largest, which distillation.dtype packed cannot hold"
    ):
        codec_for(store, store.outputs["out0"]).encode(torch.tensor([[1.0, -torch.inf, 0.5, 0.0]]))


@pytest.mark.parametrize("classes", [2, 255, 256, 257, 65_536, 65_537, 2**24])
def test_the_last_class_has_an_index(classes: int) -> None:
    store = spec("topk", classes=classes)
    rows = torch.zeros(1, classes)
    rows[0, -1] = 9
    codec = codec_for(store, store.outputs["out0"])
    columns = codec.encode(rows)
    for name, column in codec.columns.items():
        assert (columns[name].dtype, columns[name].shape[1:]) == (column.dtype, column.shape)
    signal = codec.signal(columns)
    assert isinstance(signal, TopKSignal)
    assert signal.indices[0, 0] == classes - 1


def test_large_logits_lose_nothing_in_fp16() -> None:
    """The maximum of the row is subtracted first: fp16 cannot represent 40,000.25, but it can represent -0.25."""
    rows = torch.tensor([[40_000.5, 40_000.25, 39_990.0]])
    store = StoreSpec(kind="topk", outputs=spec(classes=3).outputs, k=2, temperatures=(1.0,))
    codec = codec_for(store, store.outputs["out0"])
    found = probabilities(codec.signal(codec.encode(rows)), torch.zeros(1, 3), 1.0)
    torch.testing.assert_close(found, rows.softmax(-1))


@pytest.mark.parametrize("kind", KINDS)
def test_any_order_and_any_batch_gives_each_sample_its_own_rows(tmp_path: Path, kind: str) -> None:
    kept = spec(kind, "fp32", outputs=2)
    store = stored(tmp_path, kept)
    assert len(store.manifest.shards) > 3
    for seed, count in enumerate([1, 2, 7, 64]):
        wanted = shuffled(seed, count)
        blocks = store.fetch([fingerprint({"input_ids": sample}) for sample in wanted])
        assert blocks.keys() == {"out0", "out1"}
        for name, block in blocks.items():
            assert block.rows.tolist() == [len(said(kept, name, sample)) for sample in wanted]
            oracle = torch.cat([logits(kept, name, sample) for sample in wanted])
            top = oracle.argmax(-1)
            assert torch.equal(probabilities(block.signal, torch.zeros_like(oracle), 1.0).argmax(-1), top)


def test_duplicates_are_stored_once_and_read_equal(tmp_path: Path) -> None:
    store = stored(tmp_path, spec())
    assert store.manifest.num_records == len({tuple(sample) for sample in samples()}) < len(samples())
    twice = store.fetch(fingerprints({"input_ids": [samples()[1]] * 2}))["out0"].signal.logits
    first, second = twice.chunk(2)
    assert torch.equal(first, second)


def test_samples_without_a_record_are_listed_by_position(tmp_path: Path) -> None:
    store = stored(tmp_path, spec())
    known = samples()
    longer = [*known[1], 4]  # truncated one token later
    assert store.missing(fingerprints({"input_ids": known})) == []
    assert store.missing(fingerprints({"input_ids": [known[0], longer, known[5], [99]]})) == [1, 3]
    assert store.missing([b"\0" * 16, b"\xff" * 16]) == [0, 1]
    with pytest.raises(AssertionError, match="a sample without a record"):
        store.fetch(fingerprints({"input_ids": [longer]}))


def test_an_output_without_rows_for_a_sample(tmp_path: Path) -> None:
    data = [[3], [4, 5, 6]]  # no position of the first counts
    store = open_store(capture(tmp_path, plan(spec(), data), data))
    block = store.fetch(fingerprints({"input_ids": [[3], [4, 5, 6], [3]]}))["out0"]
    assert block.rows.tolist() == [0, 2, 0]
    assert len(block.signal) == 2


# ---- what cannot be stored


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("full", [1.0, torch.nan]),
        ("full", [1.0, torch.inf]),
        ("full", [1.0, 1e5]),  # too large for fp16
        ("full", [-torch.inf, -torch.inf]),
        ("topk", [1.0, torch.nan]),
        ("hidden", [1.0, -torch.inf]),
    ],
)
def test_values_that_are_not_finite_in_the_type_of_the_store_are_refused(
    kind: str, values: list[float]
) -> None:
    width = len(values)
    store = spec(kind, "fp16", width)
    rows = torch.zeros(3, width)
    rows[1] = torch.tensor(values)
    with pytest.raises(UserError, match=r"teacher: its outputs are not finite in torch\.float16"):
        codec_for(store, store.outputs["out0"]).encode(rows)


def test_excluded_classes_stay_excluded() -> None:
    rows = torch.tensor([[1.0, -torch.inf, 0.5, -torch.inf], [0.0, 1.0, 2.0, 3.0]])
    for kind in ("full", "topk"):
        store = spec(kind, "fp16", 4)
        codec = codec_for(store, store.outputs["out0"])
        found = probabilities(codec.signal(codec.encode(rows)), rows, 1.0)
        torch.testing.assert_close(found, rows.softmax(-1))


# ---- memory

READ_ALL = """
import sys
from pathlib import Path
import numpy as np
from dsprune.distillation.store import open_store, reader
reader.RESIDENT_BYTES = 2**20

def resident():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024

store = open_store(Path(sys.argv[1]))
names = store.fingerprints.copy()
store.fetch(names[:8])
before, peak = resident(), 0
for start in range(0, len(names), 8):
    store.fetch(np.random.default_rng(start).choice(names, 8))
    store.fetch(names[start : start + 8])
    peak = max(peak, resident())
print(peak - before)
"""


def test_memory_does_not_grow_with_what_is_read(tmp_path: Path) -> None:
    """60 MB are checked and read twice; the memory of the process grows by at most one batch."""
    data = [[i, 1] for i in range(500)]
    store = spec("full", "fp32", 30_000)
    planned = plan(store, data, shard_bytes=8 * 2**20)
    for number in range(planned.num_shards):
        writer = ShardWriter(planned, number)
        writer.put(range(len(writer.samples)), {"out0": torch.randn(len(writer.samples), 30_000)})
        writer.save(tmp_path)
    capture(tmp_path, planned)
    assert planned.num_bytes > 60e6
    command = [sys.executable, "-c", READ_ALL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT)
    assert int(done.stdout) < 6e6


def test_the_heads_are_on_the_given_device(tmp_path: Path) -> None:
    capture(tmp_path, plan(spec("hidden")))
    store = open_store(tmp_path, device=torch.device("meta"))
    signal = store.fetch(fingerprints({"input_ids": samples()[:1]}))["out0"].signal
    assert isinstance(signal, HiddenSignal)
    assert isinstance(signal.head, Head)
    assert signal.head.weight.is_meta
    assert not signal.hidden.is_meta


@pytest.mark.parametrize("rows", [[1] * 9, [3] * 4, [0, 0], [5], [2, 2, 1], [1, 2, 2], [0, 1], [1, 0, 2]])
def test_the_rows_of_a_record_are_those_of_the_offsets(rows: list[int]) -> None:
    offsets = np.cumsum([0, *rows])
    first_row = reader._equal_rows(offsets)
    assert (first_row is not None) == (len(set(rows)) == 1)
    first_row = first_row or offsets.item
    assert [first_row(record) for record in range(len(offsets))] == offsets.tolist()


@pytest.mark.parametrize(("more", "released"), [(0, False), (-1, True)])
def test_pages_are_released_where_the_records_may_take_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int, released: bool
) -> None:
    store = stored(tmp_path, spec("full"))
    names = store.fingerprints.copy()
    rows = sum(block.signal.logits.nbytes for block in store.fetch(names).values())
    assert rows <= store._most_bytes <= rows + 8 * (len(names) + store.num_files)
    monkeypatch.setattr(reader, "RESIDENT_BYTES", store._most_bytes + more)
    monkeypatch.setattr(reader, "RECORD_PAGES", store._most_bytes)
    calls: list[TensorFile] = []
    monkeypatch.setattr(TensorFile, "release", lambda file: calls.append(file))
    store.fetch(names)
    assert bool(calls) == released
