from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR

from dsprune.errors import UserError
from dsprune.recipe import Budget, LearningRate, Pruning
from dsprune.schedule import MaskUpdate, Timetable, build_timetable

read = TypeAdapter(Timetable).validate_python

TIMETABLE = Timetable(
    total_steps=100,
    steps_per_epoch=10,
    warmup_steps=5,
    updates=(MaskUpdate(10, 0.5), MaskUpdate(60, 0.9)),
    rewind=True,
    dense_final=0.5,
    interval_final=0.1,
    final=0.0,
)


@pytest.mark.parametrize(
    ("step", "multiplier"),
    [(0, 0.0), (4, 0.8), (5, 1.0), (9, 0.6), (10, 1.0), (35, 0.55), (60, 1.0), (80, 0.5), (100, 0), (101, 0)],
)
def test_learning_rate_by_hand(step: int, multiplier: float) -> None:
    assert TIMETABLE.lr_multiplier(step) == pytest.approx(multiplier)


@pytest.mark.parametrize(
    ("step", "sparsity", "phase"),
    [(0, 0, "dense"), (9, 0, "dense"), (10, 0.5, "prune"), (59, 0.5, "prune"), (60, 0.9, "recover")],
)
def test_sparsity_and_phase_by_hand(step: int, sparsity: float, phase: str) -> None:
    assert TIMETABLE.sparsity_at(step) == sparsity
    assert TIMETABLE.phase_at(step) == phase


def test_phases_cover_the_run() -> None:
    assert TIMETABLE.phases() == [("dense", 0, 10), ("prune", 10, 60), ("recover", 60, 100)]


def test_phases_alternate_as_the_masks_do() -> None:
    updates = tuple(MaskUpdate(step, sparsity) for step, sparsity in ((10, 0.9), (30, 0.0), (60, 0.9)))
    made = replace(TIMETABLE, updates=updates)
    assert made.phases() == [("dense", 0, 10), ("prune", 10, 30), ("dense", 30, 60), ("recover", 60, 100)]
    assert [made.sparsity_at(step) for step in (9, 10, 29, 30, 59, 60)] == [0, 0.9, 0.9, 0, 0, 0.9]
    assert [made.progress(update) for update in updates] == [1, 0, 1]


def test_an_update_is_found_at_its_step_only() -> None:
    found = [step for step in range(100) if TIMETABLE.update_at(step)]
    assert found == [10, 60]


@pytest.mark.parametrize(("step", "following"), [(0, 10), (10, 10), (11, 60), (60, 60), (61, None)])
def test_the_next_update_is_at_the_step_or_later(step: int, following: int | None) -> None:
    update = TIMETABLE.next_update(step)
    assert (None if update is None else update.step) == following
    assert TIMETABLE.is_at_target(step) == (following is None)


def test_a_dense_run_is_always_at_its_target() -> None:
    assert replace(TIMETABLE, updates=()).is_at_target(0)


def test_updates_lie_between_the_first_and_the_last() -> None:
    assert [TIMETABLE.update_progress(update) for update in TIMETABLE.updates] == [0, 1]
    single = replace(TIMETABLE, updates=TIMETABLE.updates[1:])
    assert single.update_progress(single.updates[0]) == 1


def test_progress_is_the_share_of_the_target() -> None:
    first, last = TIMETABLE.updates
    assert TIMETABLE.progress(first) == pytest.approx(5 / 9)
    assert TIMETABLE.progress(last) == 1


def test_a_warmup_that_reaches_over_an_update_goes_on() -> None:
    pruning = Pruning(sparsity=0.9, start=10, end=60, updates=2)
    rate = LearningRate(warmup=20, rewind=True)
    timetable = build_timetable(pruning, rate, Budget(batch=1, steps=100), None)
    assert [timetable.lr_multiplier(step) for step in (10, 19, 20, 60)] == [0.5, 0.95, 1.0, 1.0]


def test_without_pruning_the_rate_rises_once_and_decays_once() -> None:
    timetable = build_timetable(None, LearningRate(warmup=2), Budget(batch=1, epochs=2), 5)
    assert timetable.updates == ()
    assert timetable.phases() == [("dense", 0, 10)]
    rates = [timetable.lr_multiplier(step) for step in range(11)]
    assert rates == pytest.approx([0, 0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0])


SCHEDULE = {"warmup": "0 steps", "dense_peak": 1.0, "dense_final": 0.2, "interval_final": 0.1, "final": 0.05}


def test_a_dense_run_can_have_the_learning_rate_of_its_pruned_counterpart() -> None:
    budget, pruning = (
        Budget(epochs=30, batch=1),
        Pruning(sparsity=0.9, first=0.7, start="2 epochs", end="26 epochs"),
    )
    pruned = build_timetable(
        Pruning(**{**pruning.model_dump(), "every": "4 epochs"}),
        LearningRate(**SCHEDULE, rewind=True),
        budget,
        10,
    )
    points = [f"{epoch} epochs" for epoch in range(2, 27, 4)]
    dense = build_timetable(None, LearningRate(**SCHEDULE, rewind_at=points), budget, 10)
    assert [dense.lr_multiplier(step) for step in range(300)] == [pruned.lr_multiplier(s) for s in range(300)]
    assert dense.lr_corners() == pruned.lr_corners()
    assert read(asdict(dense)) == dense


def test_rewinds_can_be_at_other_steps_than_mask_updates() -> None:
    pruning = Pruning(sparsity=0.9, first=0.5, start="20 steps", end="80 steps", updates=2)
    rate = LearningRate(**SCHEDULE, rewind=False, rewind_at=("50 %",))
    made = build_timetable(pruning, rate, Budget(steps=100, batch=1), None)
    rates = [made.lr_multiplier(step) for step in (0, 20, 25, 49, 50, 80, 100)]
    assert rates == pytest.approx([1, 0.68, 0.6, 0.216, 1, 0.43, 0.05])


@pytest.mark.parametrize(
    ("span", "said"),
    [
        ("3 epochs", r"^learning_rate\.rewind_at\[0\] \(3 epochs\)"),
        ("100 %", r"^learning_rate\.rewind_at: value 100 %"),
    ],
)
def test_a_rewind_outside_of_the_run_is_refused(span: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_timetable(None, LearningRate(rewind_at=(span,)), Budget(steps=100, batch=1), None)


def test_a_timetable_whose_rewinds_are_outside_of_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="rewinds"):
        read({**asdict(TIMETABLE), "rewinds": [101]})


def rates_of_torch(make: Callable[[torch.optim.Optimizer], LRScheduler], epochs: int) -> list[float]:
    """The rate of each epoch from a torch scheduler that is stepped once per epoch."""
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(epochs):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


ONE_CYCLE = {"warmup": "0.2 epochs", "initial": 0.04, "curve": "cosine", "hold": "1 epochs", "final": 4e-6}


@pytest.mark.parametrize(
    ("settings", "epochs", "make"),
    [
        ({"decay_every": "20 epochs"}, 50, lambda optimizer: StepLR(optimizer, 20, 0.5)),
        ({"decay_every": "3 epochs", "decay_factor": 0.1}, 10, lambda optimizer: StepLR(optimizer, 3)),
        (ONE_CYCLE, 4, lambda optimizer: OneCycleLR(optimizer, 1.0, epochs=4, steps_per_epoch=1)),
    ],
)
def test_a_rate_is_that_of_a_scheduler_of_torch_that_is_stepped_once_an_epoch(
    settings: dict[str, Any], epochs: int, make: Callable[[torch.optim.Optimizer], LRScheduler]
) -> None:
    made = build_timetable(None, LearningRate(**settings), Budget(batch=1, epochs=epochs), 100)
    rates = [made.lr_multiplier(step) for step in range(100 * epochs)]
    assert rates == pytest.approx([rate for rate in rates_of_torch(make, epochs) for _ in range(100)])
    assert made.lr_multiplier(100 * epochs) == rates[-1]
    assert len(made.lr_corners()) > 100
    assert read(asdict(made)) == made


def test_a_cosine_decays_from_each_rewind() -> None:
    made = replace(TIMETABLE, curve="cosine")
    rates = [made.lr_multiplier(step) for step in (0, 5, 10, 35, 60, 80, 100)]
    assert rates == pytest.approx([0, 1, 1, 0.55, 1, 0.5, 0])
    assert made.lr_multiplier(20) > TIMETABLE.lr_multiplier(20)


def test_a_step_decay_begins_anew_after_the_warm_up_and_at_each_rewind() -> None:
    made = replace(TIMETABLE, decay_every=20, decay_factor=0.5, dense_peak=0.5)
    rates = {step: made.lr_multiplier(step) for step in (0, 4, 5, 9, 10, 29, 30, 50, 59, 60, 80, 99, 100)}
    assert rates == {
        **{0: 0, 4: 0.4, 5: 0.5, 9: 0.5},
        **{10: 1, 29: 1, 30: 0.5, 50: 0.25, 59: 0.25, 60: 1, 80: 0.5, 99: 0.5, 100: 0.5},
    }


def test_a_held_rate_keeps_the_start_of_a_segment_that_is_shorter() -> None:
    made = replace(TIMETABLE, warmup_steps=0, hold=25)
    rates = [made.lr_multiplier(step) for step in (0, 9, 10, 34, 35, 59, 60, 84, 85, 99)]
    assert rates == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 1, 1, 0, 0])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"decay_every": "1 %"}, r"^learning_rate\.decay_every: value 1 % is 0\.1 steps: must be one step or more"),
        ({"hold": "0.01 epochs"}, r"^learning_rate\.hold \(0.01 epochs\): counted in epochs"),
        ({"hold": "1 %"}, r"^learning_rate\.hold: value 1 % is 0\.1 steps"),
    ],
)  # fmt: skip
def test_a_decay_that_cannot_be_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_timetable(None, LearningRate(**settings), Budget(steps=10, batch=1), None)


@pytest.mark.parametrize("damage", [{"curve": "x"}, {"hold": 0}, {"decay_every": -1}])
def test_a_timetable_with_no_such_learning_rate_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"curve|the learning rate is kept"):
        read({**asdict(TIMETABLE), **damage})
