"""Statistics of a stored teacher by temperature, and the temperature that a rule gives.

Gradients are those for a student at initialisation, all of whose logits are equal. The task's cross-entropy then has a
gradient of norm `sqrt(1 - 1/n)` for n classes, for any label, and the distillation loss has one of `T * ||p - 1/n||`,
p being the teacher's probabilities at T. Their ratio therefore needs neither a student nor labels.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsprune.distillation.signal import TeacherSignal, TopKSignal

__all__ = ["GRID", "NUM_BINS", "TARGET_SHARE", "Curve", "CurveMeter", "Point", "recommend"]

# Preferred numbers of ISO 3, ten per decade: evenly spaced on a log scale, and short to write in a recipe.
GRID = (0.5, 0.63, 0.8, 1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0, 10.0, 12.5, 16.0, 20.0)

TARGET_SHARE = 0.5
"""The entropy share that `recommend` aims for."""

NUM_BINS = 15
"""Bins of confidence for the calibration error."""

CHUNK_ELEMENTS = 2**20
"""Probabilities that are processed together."""


@dataclass(frozen=True)
class Point:
    """The teacher at one temperature: means over samples of the means over the rows of each.

    Attributes:
        temperature: divides the logits.
        entropy: entropy of the probabilities, in nats.
        entropy_share: mean entropy divided by the mean of its largest possible value, the log of the number of
            classes; 0 to 1.
        top1_mass: the largest probability.
        gradient_ratio: gradient norm of the distillation loss divided by that of the task loss, see the module.
        calibration_error: expected calibration error against the labels; None without labels.
    """

    temperature: float
    entropy: float
    entropy_share: float
    top1_mass: float
    gradient_ratio: float
    calibration_error: float | None


@dataclass(frozen=True)
class Curve:
    """One output of the teacher at all temperatures.

    Attributes:
        points: the temperatures, ascending.
        agreement: fraction of the labels that are the teacher's most likely class; None without labels.
        num_rows: number of rows.
        num_labels: number of rows with a label.
    """

    points: tuple[Point, ...]
    agreement: float | None
    num_rows: int
    num_labels: int


def recommend(curves: Sequence[Curve]) -> float:
    """Return the temperature, not below 1, at which the entropy share is nearest to `TARGET_SHARE`.

    At a share of 0 the targets hold no more information than labels, at 1 they do not distinguish classes. Entropy
    rises with temperature, so there is one optimum between. A temperature below 1 would remove information from a
    soft teacher; it is returned only if there is none of 1 or more. For several outputs, the mean share counts. The
    rule is dsprune's own, not from a paper, and no training has confirmed it: for a teacher of 77 intents it gives 1.6,
    and a pretrained student learned more at 1 than at 2 (`dsprune.recipe.recipe.TEMPERATURE`).
    """
    shares = {
        points[0].temperature: sum(point.entropy_share for point in points) / len(points)
        for points in zip(*(curve.points for curve in curves), strict=True)
    }
    allowed = [temperature for temperature in shares if temperature >= 1] or list(shares)

    def preference(temperature: float) -> tuple[float, float]:
        # Rounded, so that if all are equal, a one-hot teacher gets the highest and a uniform one the lowest.
        distance = shares[temperature] - TARGET_SHARE
        return round(abs(distance), 4), temperature if distance > 0 else -temperature

    return float(min(allowed, key=preference))


class CurveMeter:
    """Accumulates the statistics of one output of the teacher; its size depends only on the temperatures."""

    def __init__(self, temperatures: Sequence[float], classes: int) -> None:
        self._temperatures, self._classes = sorted(temperatures), classes
        rows = len(self._temperatures)
        self._entropy, self._top1, self._gradient = torch.zeros(3, rows, dtype=torch.float64)
        # Weight, confidence and correctness of the labelled rows, by bin of confidence.
        self._bins = torch.zeros(rows, 3, NUM_BINS, dtype=torch.float64)
        self._weight = self._largest_entropy = self._task_gradient = 0.0
        self._num_rows = self._num_labels = 0

    def add(self, signal: TeacherSignal, weights: Tensor, labels: Tensor | None = None) -> None:
        """Add some rows.

        Args:
            signal: the rows.
            weights: weight of each row, `[rows]`; the weights of a sample sum to 1.
            labels: class of each row, `[rows]`, negative if unknown; None = all unknown.
        """
        labels = torch.full((len(signal),), -1) if labels is None else labels
        assert len(signal) == len(weights) == len(labels), (len(signal), len(weights), len(labels))
        size = max(1, CHUNK_ELEMENTS // self._classes)
        for start in range(0, len(signal), size):
            rows = slice(start, start + size)
            self._add_chunk(signal, rows, weights[rows].double(), labels[rows])
        self._num_rows += len(signal)
        self._num_labels += int((labels >= 0).sum())

    @property
    def has_choice(self) -> bool:
        """Whether any row had two classes or more: a row of one class has only one distribution."""
        return self._largest_entropy > 0

    def curve(self) -> Curve:
        """Return the statistics of all rows so far."""
        assert self.has_choice, "all rows have a single class"
        labelled = self._bins[0, 0].sum().item()
        return Curve(
            points=tuple(map(self._point, range(len(self._temperatures)))),
            agreement=self._bins[0, 2].sum().item() / labelled if self._num_labels else None,
            num_rows=self._num_rows,
            num_labels=self._num_labels,
        )

    def _add_chunk(self, signal: TeacherSignal, rows: slice, weights: Tensor, labels: Tensor) -> None:
        student = torch.full((len(weights), self._classes), -math.log(self._classes))
        is_class = student  # set at the first temperature; the same at all others
        for i, log_probs in enumerate(_log_probs(signal, rows, student, self._temperatures)):
            if i == 0:
                is_class = log_probs > -torch.inf  # -inf excludes a class from its row
                num_classes = is_class.sum(-1, keepdim=True)
                self._largest_entropy += (weights @ num_classes[:, 0].double().log()).item()
                self._task_gradient += (weights @ (1 - 1 / num_classes[:, 0].double()).sqrt()).item()
                self._weight += weights.sum().item()
            probs = log_probs.exp_()
            top1, predicted = probs.max(-1)
            self._top1[i] += weights @ top1.double()
            self._add_bins(i, weights, top1, predicted, labels)
            self._entropy[i] += weights @ torch.special.entr(probs).sum(-1).double()
            distance = probs.sub_(is_class / num_classes).norm(dim=-1).double()
            self._gradient[i] += self._temperatures[i] * (weights @ distance)

    def _add_bins(self, i: int, weights: Tensor, top1: Tensor, predicted: Tensor, labels: Tensor) -> None:
        known = labels >= 0
        confidence, weights = top1[known].double(), weights[known]
        bins = (confidence * NUM_BINS).ceil().long().clamp(1, NUM_BINS) - 1
        correct = (predicted == labels)[known].double()
        for row, values in zip(
            self._bins[i], (weights, weights * confidence, weights * correct), strict=True
        ):
            row.index_add_(0, bins, values)

    def _point(self, i: int) -> Point:
        weight, confidence, correct = self._bins[i]
        error = (confidence - correct).abs().sum() / weight.sum()
        return Point(
            temperature=self._temperatures[i],
            entropy=self._entropy[i].item() / self._weight,
            entropy_share=self._entropy[i].item() / self._largest_entropy,
            top1_mass=self._top1[i].item() / self._weight,
            gradient_ratio=self._gradient[i].item() / self._task_gradient,
            calibration_error=error.item() if self._num_labels else None,
        )


def _log_probs(
    signal: TeacherSignal, rows: slice, student: Tensor, temperatures: Sequence[float]
) -> Iterator[Tensor]:
    """Yield the teacher's log-probabilities of some rows at each temperature, a new tensor each."""
    if isinstance(signal, TopKSignal):
        yield from (signal.log_probs(rows, temperature, student) for temperature in temperatures)
        return
    # Log-probabilities at temperature 1 are logits up to a constant per row: the head is applied only once.
    logits = signal.log_probs(rows, 1.0, student)
    yield from (torch.log_softmax(logits / temperature, dim=-1) for temperature in temperatures)
