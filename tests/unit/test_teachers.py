"""Micro-batches with a teacher's stored outputs, and the fingerprints by which they are found."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from dsprune.distillation import FullSignal, Head, HiddenSignal, TopKSignal
from dsprune.distillation.capture.forward import Source
from dsprune.distillation.store.format import FINGERPRINT
from dsprune.distillation.teachers import MicroBatch, with_fingerprints


def test_each_example_has_its_own_fingerprint() -> None:
    raw = np.random.default_rng(0).bytes(16 * 7)
    data = Dataset.from_dict({"length": list(range(7))}).select([6, 0, 1, 2, 3, 4, 5])
    source = SimpleNamespace(data=data, samples=np.frombuffer(raw, dtype=FINGERPRINT))
    found = with_fingerprints(source)
    assert [found[i]["length"] for i in range(7)] == [6, 0, 1, 2, 3, 4, 5]
    assert [found[i]["fingerprint"] for i in range(7)] == [raw[16 * i : 16 * i + 16] for i in range(7)]
    assert found.__getitems__([3, 1])[0]["fingerprint"] == raw[48:64]


def test_a_change_reaches_every_tensor_of_a_micro_batch() -> None:
    ones = torch.ones(2, 3)
    signals = {
        "full": FullSignal(ones),
        "hidden": HiddenSignal(ones, Head(ones, ones[0])),
        "topk": TopKSignal(ones, ones.int(), ones, (1.0,)),
    }
    micro_batch = MicroBatch({"input_ids": ones.long()}, signals)
    moved = micro_batch.to(torch.device("meta"))
    tensors = [moved.batch["input_ids"], moved.stored["full"].logits, moved.stored["hidden"].hidden]
    tensors += [moved.stored["hidden"].head.weight, moved.stored["hidden"].head.bias]
    tensors += [getattr(moved.stored["topk"], name) for name in ("values", "indices", "rest")]
    assert all(tensor.is_meta for tensor in tensors)
    assert moved.stored["topk"].temperatures == (1.0,)


@pytest.mark.parametrize("is_here", [True, False])
def test_all_ranks_take_the_teacher_of_the_first(is_here: bool, tmp_path: Path) -> None:
    """A rank with other weights, or with weights that the first rank lacks, would behave differently."""
    if is_here:
        (tmp_path / "model.safetensors").write_bytes(b"the first rank's")
    absent: Any = None
    own = {"tokenizer": "a", "teacher": "this rank's"}
    source = Source(str(tmp_path), absent, absent, absent, np.array([], FINGERPRINT), own)
    origin = source.with_teacher_fingerprint().origin
    assert origin["tokenizer"] == "a"
    assert origin.get("teacher") != "this rank's"
    assert ("teacher" in origin) == is_here
