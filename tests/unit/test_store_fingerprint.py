"""Fingerprints depend only on the model's inputs."""

import hashlib
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsprune.distillation.store import fingerprint, fingerprints

SAMPLE = {"input_ids": [101, 7592, 2088, 102], "token_type_ids": [0, 0, 1, 1]}


def test_the_order_of_the_features_does_not_matter() -> None:
    assert fingerprint(SAMPLE) == fingerprint(dict(reversed(SAMPLE.items())))


@pytest.mark.parametrize(
    "convert",
    [
        tuple,
        lambda row: np.array(row, dtype=np.int32),
        lambda row: np.array(row, dtype=np.uint16),
        torch.tensor,
        lambda row: torch.tensor(row, dtype=torch.int32),
    ],
)
def test_the_type_of_integers_does_not_matter(convert) -> None:
    assert fingerprint({name: convert(row) for name, row in SAMPLE.items()}) == fingerprint(SAMPLE)


@given(before=st.integers(0, 3), after=st.integers(0, 3), filler=st.integers(0, 9))
def test_padding_on_either_side_does_not_matter(before: int, after: int, filler: int) -> None:
    padded = {name: [filler] * before + row + [filler] * after for name, row in SAMPLE.items()}
    padded["attention_mask"] = [0] * before + [1, 1, 1, 1] + [0] * after
    assert fingerprint(padded) == fingerprint(SAMPLE)


def test_padding_of_choices_does_not_matter() -> None:
    ragged = {"input_ids": [[1, 2, 3], [4]]}
    padded = {"input_ids": [[1, 2, 3], [4, 0, 0]], "attention_mask": [[1, 1, 1], [1, 0, 0]]}
    assert (
        fingerprint(ragged)
        == fingerprint(padded)
        == fingerprint({k: torch.tensor(v) for k, v in padded.items()})
    )


def test_features_without_one_entry_per_token_are_not_padding() -> None:
    padded = {"input_ids": [5, 6, 0], "attention_mask": [1, 1, 0], "language": 3, "extra": [1.5, 0.0]}
    assert fingerprint(padded) == fingerprint({"input_ids": [5, 6], "language": 3, "extra": [1.5, 0.0]})


@pytest.mark.parametrize(
    "other",
    [
        {**SAMPLE, "input_ids": [101, 7592, 2088]},  # one token less, as by another truncation
        {name: row[:-1] for name, row in SAMPLE.items()},
        {**SAMPLE, "input_ids": [101, 7592, 2088, 103]},
        {"input_ids": SAMPLE["input_ids"]},
        {**SAMPLE, "position_ids": [0, 1, 2, 3]},
        {"input_ids": SAMPLE["token_type_ids"], "token_type_ids": SAMPLE["input_ids"]},
        {**SAMPLE, "input_ids": [101.0, 7592.0, 2088.0, 102.0]},
        {
            "input_ids": [101, 7592, 2088, 102, 0],
            "token_type_ids": [0, 1, 1],
        },  # the same bytes, cut elsewhere
        {**SAMPLE, "attention_mask": [1, 1, 0, 1]},
    ],
)
def test_anything_that_the_model_reads_matters(other: dict[str, list[float]]) -> None:
    assert fingerprint(other) != fingerprint(SAMPLE)


def test_choices_differ_from_their_concatenation() -> None:
    assert fingerprint({"input_ids": [[1, 2], [3]]}) != fingerprint({"input_ids": [[1], [2, 3]]})


def test_is_sha_256_of_a_fixed_text() -> None:
    """Existing stores stay valid."""
    text = b"dsprune sample 1\n9 input_ids <i8 [(2,)]\n" + np.array([3, 4], "<i8").tobytes()
    assert fingerprint({"input_ids": [3, 4]}) == hashlib.sha256(text).digest()[:16]


def test_the_fingerprint_of_a_dataset_is_that_of_its_samples() -> None:
    columns = {"input_ids": [[1, 2], [3], []], "attention_mask": [[1, 0], [1], []]}
    each = [fingerprint({name: column[i] for name, column in columns.items()}) for i in range(3)]
    assert [row.tobytes() for row in fingerprints(columns)] == each
    assert len(set(each)) == 3


def test_a_large_dataset_takes_seconds() -> None:
    column = [list(range(i % 50)) for i in range(20_000)]
    began = time.process_time()
    fingerprints(
        {"input_ids": column, "token_type_ids": column, "attention_mask": [[1] * len(c) for c in column]}
    )
    assert time.process_time() - began < 2.5  # about 0.4 on a core of 2026
