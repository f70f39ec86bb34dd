"""The kind of store that `auto` chooses, and the records of a forward pass."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dsprune.distillation import Head
from dsprune.distillation.capture.choice import KL_BOUND, Candidate, candidates, choose, divergences
from dsprune.distillation.capture.shards import shard_batches
from dsprune.distillation.store import Output, StoreSpec
from dsprune.recipe import Distillation

FULL = StoreSpec(kind="full", outputs={"logits": Output(classes=50)})
TOPK = StoreSpec(kind="topk", outputs={"logits": Output(classes=50)}, k=5, temperatures=(1.0, 4.0))
HIDDEN = StoreSpec(kind="hidden", outputs={"logits": Output(classes=50, hidden=8)})


@pytest.mark.parametrize(
    ("errors", "chosen"),
    [
        ((0.0, 0.0, 0.0), TOPK),
        ((2 * KL_BOUND, 0.0, 0.0), HIDDEN),
        ((2 * KL_BOUND, 2 * KL_BOUND, KL_BOUND), FULL),
        ((4 * KL_BOUND, 2 * KL_BOUND, 3 * KL_BOUND), HIDDEN),  # none is accurate enough: the smallest error
    ],
)
def test_the_smallest_accurate_kind_is_chosen(errors: tuple[float, ...], chosen: StoreSpec) -> None:
    specs = zip((TOPK, HIDDEN, FULL), (19, 16 + 8, 100), errors, strict=True)
    candidates = [Candidate(spec, row_bytes, error) for spec, row_bytes, error in specs]
    assert choose(candidates[::-1]).spec == chosen


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_error_is_the_divergence_of_the_stored_from_the_original_distribution(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 8, generator=generator)
    head = Head(torch.randn(50, 8, generator=generator), torch.randn(50, generator=generator))
    logits = hidden @ head.weight.T + head.bias
    original = (logits / temperature).softmax(-1)

    def error(stored: torch.Tensor) -> float:
        return float((original * (original / stored).log()).sum())

    top = original.topk(5, -1)
    evenly = ((1 - top.values.sum(-1, keepdim=True)) / 45).expand(7, 50)
    for spec, what, stored, tolerance in (
        (TOPK, logits, evenly.scatter(-1, top.indices, top.values), 2e-2),
        (FULL, logits, (logits.half().float() / temperature).softmax(-1), 1e-5),
        (
            HIDDEN,
            hidden,
            ((hidden.half().float() @ head.weight.T + head.bias) / temperature).softmax(-1),
            1e-5,
        ),
    ):
        found = divergences(spec, "logits", what, head, logits, [temperature])
        assert found.tolist() == pytest.approx([error(stored)], rel=tolerance, abs=tolerance)
    assert divergences(TOPK, "logits", logits, None, logits, [temperature]).item() > 0.01


def test_excluded_classes_do_not_add_to_the_error() -> None:
    logits = torch.tensor([[1.0, -torch.inf, 3.0]])
    spec = StoreSpec(kind="full", outputs={"logits": Output(classes=3)}, dtype="fp32")
    assert divergences(spec, "logits", logits, None, logits, [1.0]).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_a_forward_pass_has_similar_lengths_the_longest_first(batch_size: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 30, 40)
    batches = shard_batches(lengths, batch_size)
    assert sorted(np.concatenate(batches).tolist()) == list(range(40))
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    ordered = [int(lengths[record]) for batch in batches for record in batch]
    assert ordered == sorted(ordered, reverse=True)


@pytest.mark.parametrize(
    ("classes", "settings", "expected"),
    [
        (30_522, {}, {"full fp16", "topk fp16", "topk packed"}),
        (30_522, {"dtype": "bf16"}, {"full bf16", "topk bf16"}),
        (30_522, {"kind": "topk"}, {"topk fp16"}),
        (30_522, {"kind": "topk", "dtype": "packed"}, {"topk packed"}),
        (2, {}, {"full fp16", "topk fp16"}),
    ],
)
def test_auto_compares_the_packed_form_where_it_pays(
    classes: int, settings: dict[str, str], expected: set[str]
) -> None:
    teacher = SimpleNamespace(classes={"logits": classes}, hidden={})
    found = candidates(Distillation(teacher="t", **settings), teacher)
    assert {f"{one.kind} {one.dtype}" for one in found} == expected
