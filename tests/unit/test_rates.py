"""Betas that follow the learning rate."""

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer

from dsprune.engine.learning_rate import Rates, ScaledLR
from dsprune.errors import RunFailedError, UserError
from dsprune.recipe import LearningRate
from dsprune.schedule import Timetable

MADE = Timetable(12, 12, 4, (), False, 0.1, 0.1, 0.0, rewinds=(8,), dense_peak=0.5)


def rates_of(kind: type[Optimizer]) -> tuple[Optimizer, Rates]:
    optimizer = kind([torch.zeros(1, requires_grad=True)], lr=0.1)
    return optimizer, Rates(optimizer, MADE, ScaledLR(optimizer, MADE), LearningRate(beta_at_peak=0.8))


def test_the_first_beta_is_lowest_at_the_peaks() -> None:
    optimizer, rates = rates_of(AdamW)
    betas = []
    for step in range(12):
        rates.set(step)
        first, second = optimizer.param_groups[0]["betas"]
        betas.append(first)
        assert second == 0.999
    rise, decay = [0.9, 0.875, 0.85, 0.825], [0.8, 0.825, 0.85, 0.875]
    assert betas == pytest.approx([*rise, *decay, *decay])


def test_a_beta_that_something_else_sets_is_refused() -> None:
    optimizer, rates = rates_of(AdamW)
    rates.set(0)
    optimizer.param_groups[0]["betas"] = (0.5, 0.999)
    with pytest.raises(RunFailedError, match=r"betas=\(0\.5, 0\.999\), and \(0\.9, 0\.999\) when"):
        rates.set(1)


def test_an_optimizer_without_betas_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"learning_rate\.beta_at_peak: value 0\.8: the optimizer SGD has no betas"
    ):
        rates_of(SGD)
