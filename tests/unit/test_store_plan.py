"""The size of a store is known to the byte before the teacher runs."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors import safe_open

from dsprune.distillation.store import Output, StoreSpec, fingerprints, plan_store
from dsprune.errors import UserError
from dsprune.testing.stores import ORIGIN, TEMPERATURES, capture, plan, samples, spec

KINDS = ["full", "topk", "hidden"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outputs", [1, 2])
def test_the_size_is_the_size_of_the_files_less_their_headers(
    tmp_path: Path, kind: str, outputs: int
) -> None:
    planned = plan(spec(kind, outputs=outputs))
    capture(tmp_path, planned)
    payload = 0
    for path in tmp_path.glob("*.safetensors"):
        length = int.from_bytes(path.read_bytes()[:8], "little")
        assert length < 2000
        payload += path.stat().st_size - 8 - length
    assert payload == planned.num_bytes
    heads = tmp_path / "head.safetensors"
    assert (planned.head_bytes > 0) == heads.exists() == (kind == "hidden")
    assert planned.bytes_per_record * planned.num_records == pytest.approx(
        planned.num_bytes - planned.head_bytes
    )


def test_records_are_the_distinct_samples_in_the_order_of_their_fingerprints() -> None:
    data = samples()
    planned = plan(spec(), data)
    records = [row.tobytes() for row in planned.fingerprints]
    assert records == sorted({row.tobytes() for row in fingerprints({"input_ids": data})})
    assert planned.num_records < len(data)
    for sample, rows in zip(planned.samples, planned.rows["out0"], strict=True):
        assert data.index(data[sample]) == sample, "the first of equal samples"
        assert rows == len(data[sample]) - 1


def test_the_order_of_the_dataset_does_not_matter() -> None:
    data = samples()
    shuffled = random.Random(0).sample(data, len(data))
    assert plan(spec(), data).digest == plan(spec(), shuffled).digest


@pytest.mark.parametrize(
    "change",
    [
        lambda: plan(spec(dtype="bf16")),
        lambda: plan(spec(), samples(39)),
        lambda: plan(spec(), shard_bytes=5000),
        lambda: plan(spec(classes=299)),
        lambda: plan_store(spec(), ORIGIN, fingerprints({"input_ids": samples()})),
        lambda: plan_store(spec(), {**ORIGIN, "teacher": "u"}, fingerprints({"input_ids": samples()})),
    ],
)
def test_another_plan_has_another_digest(change: Callable) -> None:
    assert change().digest != plan(spec()).digest


@pytest.mark.parametrize("shard_bytes", [1, 3000, 10**9])
def test_shards_hold_every_record_once_and_have_about_the_given_size(shard_bytes: int) -> None:
    planned = plan(spec(), shard_bytes=shard_bytes)
    sizes = np.diff(planned.bounds)
    assert (planned.bounds[0], planned.bounds[-1]) == (0, planned.num_records)
    assert (sizes >= 1).all()
    largest_record = 16 + 8 + planned.rows["out0"].max() * 600
    for shard in range(planned.num_shards):
        rows = planned.rows["out0"][planned.records(shard)]
        assert (16 + 8 + rows * 600).sum() < shard_bytes + largest_record


def test_no_samples_are_refused() -> None:
    with pytest.raises(UserError, match="dataset: no samples: a store needs at least one"):
        plan_store(spec(), ORIGIN, fingerprints({"input_ids": []}))


def test_equal_samples_with_unequal_rows_are_refused() -> None:
    prints = fingerprints({"input_ids": [[1], [2], [1]]})
    with pytest.raises(
        UserError, match="samples 0 and 2 have the same fingerprint, but 1 and 2 rows of out0: include"
    ):
        plan_store(spec(), ORIGIN, prints, {"out0": np.array([1, 1, 2])})


# ---- arithmetic


def bytes_per_row(store: StoreSpec) -> float:
    """Bytes of one row, in the limit of many rows per record."""
    count = 10**9
    prints = fingerprints({"input_ids": [[1]]})
    planned = plan_store(store, ORIGIN, prints, {"logits": np.array([count])})
    return round(planned.record_bytes / planned.num_rows, 3)


@pytest.mark.parametrize("classes", [30_522, 250_027])
def test_bytes_of_full_logits(classes: int) -> None:
    store = StoreSpec(kind="full", outputs={"logits": Output(classes=classes)})
    assert bytes_per_row(store) == 2 * classes


def test_hidden_is_forty_times_smaller_for_bert_base() -> None:
    hidden = StoreSpec(kind="hidden", outputs={"logits": Output(classes=30_522, hidden=768)})
    full = StoreSpec(kind="full", outputs={"logits": Output(classes=30_522)})
    assert bytes_per_row(full) / bytes_per_row(hidden) == pytest.approx(39.7, abs=0.05)


@pytest.mark.parametrize(
    ("classes", "entry"), [(200, 3), (30_522, 4), (65_536, 4), (65_537, 5), (250_027, 5)]
)
@pytest.mark.parametrize("k", [8, 64])
def test_top_k_takes_at_most_six_bytes_per_entry_with_the_rest(classes: int, entry: int, k: int) -> None:
    output = {"logits": Output(classes=classes)}
    store = StoreSpec(kind="topk", outputs=output, k=k, temperatures=(2.0,))
    assert bytes_per_row(store) == entry * k + 4
    assert bytes_per_row(store) / k <= 6


@pytest.mark.parametrize(("classes", "most"), [(30_522, 2.1), (128_256, 2.3), (250_027, 2.5)])
def test_packed_top_k_takes_the_bits_of_an_index_and_eight_bytes(classes: int, most: float) -> None:
    output = {"logits": Output(classes=classes)}
    store = StoreSpec(kind="topk", outputs=output, dtype="packed", k=50, temperatures=(2.0,))
    assert bytes_per_row(store) / 50 <= most


def test_more_entries_than_classes_are_not_stored() -> None:
    store = StoreSpec(kind="topk", outputs={"logits": Output(classes=3)}, k=64, temperatures=(2.0,))
    assert bytes_per_row(store) == 3 * 3 + 4


# ---- invalid settings


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "topk"},
        {"kind": "topk", "k": 4},
        {"kind": "topk", "temperatures": TEMPERATURES},
        {"kind": "full", "k": 4, "temperatures": TEMPERATURES},
    ],
)
def test_top_k_needs_k_and_temperatures(settings: dict) -> None:
    with pytest.raises(ValidationError, match="k and temperatures: kind topk needs both"):
        StoreSpec(outputs={"logits": Output(classes=9)}, **settings)


def test_a_temperature_is_above_zero() -> None:
    with pytest.raises(ValidationError, match="temperatures: must be above 0"):
        StoreSpec(kind="topk", outputs={"logits": Output(classes=9)}, k=2, temperatures=(1.0, 0.0))


@pytest.mark.parametrize(("kind", "hidden"), [("hidden", None), ("full", 5)])
def test_hidden_states_need_their_width(kind: str, hidden: int | None) -> None:
    with pytest.raises(ValidationError, match="hidden: each output of kind hidden needs this width"):
        StoreSpec(kind=kind, outputs={"logits": Output(classes=9, hidden=hidden)})


def test_other_programs_can_read_the_files_as_safetensors(tmp_path: Path) -> None:
    capture(tmp_path, plan(spec()))
    with safe_open(tmp_path / "shard-00000.safetensors", "np") as file:
        assert set(file.keys()) == {"fingerprint", "out0.offsets", "out0.logits"}
        assert '"kind": "full"' in file.metadata()["dsprune"]
