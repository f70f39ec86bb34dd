"""The audit of one shard finds every entry that breaks an invariant, and nothing else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dsprune.masks.bits import pack
from dsprune.masks.invariants import Finding, check_shard

KEPT = torch.tensor([True, False, True, False, True, False, True, False, True, False])


def clean(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.where(KEPT, torch.arange(1.0, 11.0), torch.zeros(10)).to(dtype)


def findings(values: Tensor, what: str = "weights") -> list[Finding]:
    return list(check_shard("up.weight", pack(KEPT), {what: values}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_clean_shard_has_no_findings(dtype: torch.dtype) -> None:
    assert findings(clean(dtype)) == []


def test_a_kept_zero_is_fine() -> None:
    values = clean()
    values[0] = 0.0
    assert findings(values) == []


@pytest.mark.parametrize("value", [1.0, -1e-45, float("inf"), float("nan")])
def test_a_pruned_entry_that_is_not_zero_is_found(value: float) -> None:
    values = clean()
    values[3] = value
    assert findings(values) == [Finding("up.weight", "pruned entries of the weights are zero", 1)]


@pytest.mark.parametrize("place", [0, 1])
def test_a_negative_zero_is_found_wherever_it_is(place: int) -> None:
    values = clean()
    values[place] = -0.0
    assert findings(values) == [Finding("up.weight", "zeros of the weights are +0.0", 1)]


def test_each_view_is_checked_and_named() -> None:
    moments = clean()
    moments[1] = 3.0
    views = {"weights": clean(), "exp_avg": moments, "exp_avg_sq": clean(), "absent": torch.empty(0)}
    [finding] = check_shard("up.weight", pack(KEPT), views)
    assert finding.rule == "pruned entries of the exp_avg are zero"


def test_a_finding_reads_as_a_sentence() -> None:
    text = str(Finding("up.weight", "zeros of the weights are +0.0", 1234))
    assert text == "up.weight: zeros of the weights are +0.0: 1,234 entries violate it"


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, -0.0, 1.0, -2.0])), min_size=1, max_size=40))
def test_counts_are_those_of_a_loop(entries: list[tuple[bool, float]]) -> None:
    kept, values = (torch.tensor(column) for column in zip(*entries, strict=True))
    not_zero = sum(not keep and value != 0 for keep, value in entries)
    negative = sum(str(value) == "-0.0" for _, value in entries)
    expected = {"pruned entries of the w are zero": not_zero, "zeros of the w are +0.0": negative}
    found = {finding.rule: finding.count for finding in check_shard("t", pack(kept), {"w": values})}
    assert found == {rule: count for rule, count in expected.items() if count}
