"""The distillation loss, against the definition written out."""

import math
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dsprune.distillation import (
    FullSignal,
    Head,
    HiddenSignal,
    TeacherSignal,
    TopKSignal,
    distillation_loss,
    example_weights,
)
from dsprune.errors import UserError
from dsprune.testing.commands import TIMEOUT


def logits(seed: int, examples: int = 5, classes: int = 4) -> Tensor:
    return 3 * torch.randn(examples, classes, generator=torch.Generator().manual_seed(seed))


def by_hand(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """T^2 * KL(p || q), with p and q from the definition of the softmax, in Python floats."""

    def softmax(row: list[float]) -> list[float]:
        powers = [math.exp(value / temperature) for value in row]
        return [power / sum(powers) for power in powers]

    total = 0.0
    for student_row, teacher_row in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = softmax(student_row), softmax(teacher_row)
        total += sum(p_i * math.log(p_i / q_i) for p_i, q_i in zip(p, q, strict=True))
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 5.5])
def test_is_the_definition_written_out(temperature: float) -> None:
    loss = distillation_loss(logits(0), logits(1), temperature)
    assert loss.item() == pytest.approx(by_hand(logits(0), logits(1), temperature), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_is_the_formula_of_sparseml(temperature: float) -> None:
    """SparseML's modifier sums over all entries and divides by the number of examples."""
    student, teacher = logits(0), logits(1)
    summed = functional.kl_div(
        functional.log_softmax(student / temperature, dim=-1),
        functional.log_softmax(teacher / temperature, dim=-1),
        log_target=True,
        reduction="sum",
    )
    theirs = summed * temperature**2 / (student.numel() / student.shape[-1])
    torch.testing.assert_close(distillation_loss(student, teacher, temperature), theirs)


def test_is_zero_where_student_and_teacher_differ_by_a_constant() -> None:
    assert distillation_loss(logits(0) + 7, logits(0), 2.0).item() == pytest.approx(0, abs=1e-6)


def test_is_the_mean_over_examples() -> None:
    student, teacher = logits(0), logits(1)
    each = [distillation_loss(s[None], t[None], 2.0).item() for s, t in zip(student, teacher, strict=True)]
    assert distillation_loss(student, teacher, 2.0).item() == pytest.approx(sum(each) / len(each))


def test_the_gradient_keeps_its_size_at_high_temperatures() -> None:
    """For T large the gradient tends to (student - teacher, each centred) / (classes * examples)."""
    student, teacher = logits(0), logits(1)
    limit = (student - student.mean(1, True)) - (teacher - teacher.mean(1, True))
    limit /= student.shape[1] * student.shape[0]
    for temperature in (100.0, 1000.0):
        leaf = student.clone().double().requires_grad_()
        # In fp32 the loss at such temperatures is mostly rounding, so the gradient is compared loosely.
        distillation_loss(leaf, teacher, temperature).backward()
        torch.testing.assert_close(leaf.grad, limit.double(), rtol=0.2, atol=0.02)


def test_only_the_student_gets_a_gradient() -> None:
    student, teacher = logits(0).requires_grad_(), logits(1)
    distillation_loss(student, teacher, 2.0).backward()
    assert student.grad.sum(dim=1).abs().max() < 1e-6, "adding a constant to the logits changes nothing"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_are_compared_in_fp32(dtype: torch.dtype) -> None:
    student, teacher = logits(0).to(dtype), logits(1).to(dtype)
    loss = distillation_loss(student, teacher, 2.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(by_hand(student.float(), teacher.float(), 2.0), rel=1e-5)


# ---- signals from a store

TEMPERATURES = (0.5, 1.0, 2.0, 5.5, 20.0)
K = 3


def top_k(teacher: Tensor, k: int = K) -> TopKSignal:
    values, indices = teacher.topk(k)
    others = teacher.scatter(-1, indices, -torch.inf)
    rest = torch.stack([(others / t).logsumexp(-1) for t in TEMPERATURES], dim=-1)
    return TopKSignal(values, indices, rest, TEMPERATURES)


def hidden(seed: int, rows: int = 6, classes: int = 11, dtype: torch.dtype = torch.float64) -> HiddenSignal:
    generator = torch.Generator().manual_seed(seed)
    state, weight, bias = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((rows, 4), (classes, 4), (classes,))
    )
    return HiddenSignal(state, Head(weight, bias))


def bucketed(logits: Tensor, teacher: Tensor, temperature: float, k: int = K) -> Tensor:
    """Probabilities of the teacher's k largest classes and of all others together, in fp64."""
    probabilities = (logits.double() / temperature).softmax(-1)
    largest = probabilities.gather(-1, teacher.topk(k).indices)
    return torch.cat([largest, 1 - largest.sum(-1, keepdim=True)], dim=-1)


def oracle(student: Tensor, signal: TeacherSignal, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL of each row, in fp64."""
    if isinstance(signal, TopKSignal):
        p, q = (bucketed(side, teacher, temperature) for side in (teacher, student))
    else:
        p, q = ((side.double() / temperature).softmax(-1) for side in (teacher, student))
    return temperature**2 * (p * (p / q).log()).sum(-1)


def signals(seed: int = 1, rows: int = 6, classes: int = 11) -> list[tuple[TeacherSignal, Tensor]]:
    """Each kind, with the teacher's logits."""
    teacher = logits(seed, rows, classes).double()
    state = hidden(seed, rows, classes)
    made = state.hidden @ state.head.weight.T + state.head.bias
    return [(FullSignal(teacher), teacher), (top_k(teacher), teacher), (state, made)]


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("chunk_elements", [1, 25, 10**6])
def test_every_kind_is_the_definition_in_fp64(temperature: float, kind: int, chunk_elements: int) -> None:
    signal, teacher = signals()[kind]
    student = logits(0, 6, 11)
    expected = oracle(student, signal, teacher, temperature).mean()
    for dtype, error in ((torch.float32, 2e-5), (torch.float64, 1e-9)):
        loss = distillation_loss(student.to(dtype), signal, temperature, chunk_elements=chunk_elements)
        assert loss.dtype == dtype
        assert loss.item() == pytest.approx(expected.item(), rel=error)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("chunk_elements", [1, 25, 10**6])
def test_the_gradient_is_that_of_finite_differences(
    temperature: float, kind: int, chunk_elements: int
) -> None:
    signal, _ = signals()[kind]
    weights = torch.rand(6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    student = logits(0, 6, 11).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda leaf: distillation_loss(leaf, signal, temperature, weights, chunk_elements=chunk_elements),
        student,
    )


def test_top_k_of_all_classes_is_the_full_loss() -> None:
    teacher = logits(1, 6, 11).double()
    student = logits(0, 6, 11).double().requires_grad_()
    gradients = []
    for signal in (FullSignal(teacher), top_k(teacher, k=11)):
        loss = distillation_loss(student, signal, 2.0)
        gradients.append(torch.autograd.grad(loss, student)[0])
        assert loss.item() == pytest.approx(distillation_loss(student, teacher, 2.0).item())
    torch.testing.assert_close(*gradients)


def test_top_k_does_not_exceed_the_full_loss_and_a_larger_k_loses_less() -> None:
    """Merging outcomes cannot raise a KL divergence."""
    teacher, student = logits(1, 6, 40), logits(0, 6, 40)
    losses = [distillation_loss(student, top_k(teacher, k), 2.0).item() for k in (1, 2, 5, 20, 40)]
    assert losses == sorted(losses)
    assert losses[-1] == pytest.approx(distillation_loss(student, teacher, 2.0).item(), rel=1e-5)


def test_a_tiny_rest_keeps_its_digits() -> None:
    """1 - p would be 0 in fp32, but matters to a student that gives half of its mass to the rest."""
    teacher = torch.tensor([[30.0, 0.0, 0.0, -1.0]])
    student = torch.tensor([[-30.0, 0.0, -1.0, -2.0]])
    for ours, theirs in ((student, teacher), (teacher, student)):
        expected = oracle(ours.double(), FullSignal(theirs), theirs.double(), 1.0).item()
        top = distillation_loss(ours, top_k(theirs, 3), 1.0).item()
        assert top == pytest.approx(expected, rel=1e-4)


def test_a_missing_temperature_is_refused_with_the_stored_ones() -> None:
    with pytest.raises(
        UserError, match=r"distillation.temperature: value 3: .* holds 0.5, 1, 2, 5.5, 20 only: use"
    ):
        distillation_loss(logits(0, 6, 11), top_k(logits(1, 6, 11)), 3.0)


@pytest.mark.parametrize(
    "make", [FullSignal, lambda teacher: top_k(teacher, 2), lambda teacher: top_k(teacher, 4)]
)
def test_excluded_classes_change_nothing(make: Callable[[Tensor], TeacherSignal]) -> None:
    """A row of logits that is narrower than the others is padded with -inf."""
    teacher, student = logits(1, 5, 4), logits(0, 5, 4).requires_grad_()
    filler = torch.full((5, 3), -torch.inf)
    narrow = distillation_loss(student, make(teacher), 2.0)
    wide = distillation_loss(torch.cat([student, filler], 1), make(torch.cat([teacher, filler], 1)), 2.0)
    assert wide.item() == pytest.approx(narrow.item())
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (narrow, wide)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].isfinite().all()


# ---- examples of several rows


def test_examples_have_equal_weight_for_any_number_of_rows() -> None:
    student, teacher, rows = logits(0, 6), logits(1, 6), torch.tensor([1, 3, 0, 2])
    loss = distillation_loss(student, teacher, 2.0, example_weights(rows))
    means = [
        distillation_loss(s, t, 2.0).item()
        for s, t in zip(student.split(rows.tolist()), teacher.split(rows.tolist()), strict=True)
    ]
    assert means[2] == 0
    assert loss.item() == pytest.approx(sum(means) / 4)


def test_a_batch_is_the_mean_of_its_parts() -> None:
    """Gradient accumulation and ranks average, so they give the loss of the whole batch."""
    student, teacher, rows = logits(0, 6), logits(1, 6), torch.tensor([1, 3, 0, 2])
    whole = distillation_loss(student, teacher, 2.0, example_weights(rows))
    parts = [
        distillation_loss(student[part], teacher[part], 2.0, example_weights(counts))
        for part, counts in ((slice(0, 4), rows[:2]), (slice(4, 6), rows[2:]))
    ]
    assert whole.item() == pytest.approx((parts[0].item() + parts[1].item()) / 2)


def test_rows_of_weight_zero_are_ignored() -> None:
    student, teacher = logits(0).requires_grad_(), logits(1)
    loss = distillation_loss(student, teacher, 2.0, torch.tensor([0.5, 0.0, 0.5, 0.0, 0.0]))
    assert loss.item() == pytest.approx(distillation_loss(student[[0, 2]], teacher[[0, 2]], 2.0).item())
    loss.backward()
    assert student.grad[[1, 3, 4]].abs().max() == 0


def test_without_rows_the_loss_is_zero() -> None:
    student = torch.zeros(0, 4, requires_grad=True)
    loss = distillation_loss(student, torch.zeros(0, 4), 2.0)
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("rows", [4, 6])
def test_rows_are_paired_by_the_caller(rows: int) -> None:
    with pytest.raises(AssertionError):
        distillation_loss(logits(0), logits(1, rows), 2.0)


@pytest.mark.parametrize("classes", [3, 1])
def test_a_teacher_with_other_classes_is_refused(classes: int) -> None:
    with pytest.raises(
        UserError, match=rf"^distillation: {classes} classes of the teacher and 4 of the student"
    ):
        distillation_loss(logits(0), logits(1, 5, classes), 2.0)


# ---- memory

PEAK = """
import resource, sys, torch
from dsprune.distillation import *

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

rows, classes = 2000, 30_000
head = Head(torch.randn(classes, 16), torch.zeros(classes))
signal = HiddenSignal(torch.randn(rows, 16), head)
student = torch.zeros(rows, classes, dtype=torch.bfloat16, requires_grad=True)
distillation_loss(student[:64], HiddenSignal(signal.hidden[:64], head), 2.0, chunk_elements=2**20).backward()
before = peak()
loss = distillation_loss(student, signal, 2.0, chunk_elements=2**20)
after_forward = peak()
loss.backward()
print(after_forward - before, peak() - before)
"""


def test_memory_is_bounded_by_a_chunk() -> None:
    """Logits take 120 MB in bf16 and would take 240 MB in fp32; a chunk takes 4 MB, and a few chunks are alive."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, timeout=TIMEOUT
    )
    forward, backward = (int(word) for word in done.stdout.split())
    assert forward < 100e6
    assert backward < 100e6 + 120e6, "and the gradient itself, in bf16"
