import json
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from dsprune.errors import UserError
from dsprune.recipe import Budget, Distillation, LearningRate, Pruning, Recipe, Span, Start, load_recipe
from dsprune.recipe.rate import scaled_peak
from dsprune.recipe.timing import log_compression
from dsprune.schedule import MaskUpdate, Timetable, build_timetable, recipe_timetable
from dsprune.schedule.curves import cubic, exponential, linear
from dsprune.schedule.law import (
    dense_peak,
    dense_steps,
    first_sparsity,
    recovery_steps,
    scaled_epochs,
    scaled_to,
    scaled_updates,
)

LR = LearningRate()


def timetable_of(recipe: str, *overrides: str, steps_per_epoch: int = 1) -> Timetable:
    made = load_recipe(recipe, overrides)
    return build_timetable(made.pruning, made.learning_rate, made.budget, steps_per_epoch)


def steps(timetable: Timetable) -> list[int]:
    return [update.step for update in timetable.updates]


def sparsities(timetable: Timetable) -> list[float]:
    return [round(update.sparsity, 3) for update in timetable.updates]


class TestPublishedRecipes:
    """The lists are those of the published recipes, computed by hand from their formulas."""

    @pytest.mark.parametrize(
        ("target", "expected"),
        [
            (0.9, [0.700, 0.784, 0.841, 0.875, 0.893, 0.899, 0.900]),
            (0.97, [0.700, 0.814, 0.890, 0.936, 0.960, 0.969, 0.970]),
        ],
    )
    def test_the_obert_recipe_has_its_published_updates(self, target: float, expected: list[float]) -> None:
        timetable = timetable_of("obert-30-epochs", f"pruning.sparsity={target}")
        assert steps(timetable) == [2, 6, 10, 14, 18, 22, 26]
        assert sparsities(timetable) == expected
        assert timetable.total_steps == 30

    def test_obert_rewinds_from_5e6_to_5e5_at_every_update(self) -> None:
        timetable = timetable_of("obert-30-epochs", steps_per_epoch=1000)
        peak = load_recipe("obert-30-epochs").learning_rate.peak
        assert peak == 5e-5
        for update in timetable.updates:
            assert timetable.lr_multiplier(update.step) * peak == 5e-5
            assert timetable.lr_multiplier(update.step - 1) * peak == pytest.approx(5e-6, rel=0.01)
        assert timetable.lr_multiplier(29_999) * peak == pytest.approx(5e-6, rel=0.01)

    def test_the_mlperf_recipe_has_its_published_updates(self) -> None:
        timetable = timetable_of("mlperf-95")
        assert steps(timetable) == list(range(2, 30, 2))
        assert timetable.updates[0].sparsity == 0.7
        assert timetable.updates[-1].sparsity == 0.95
        assert timetable.lr_multiplier(3) == 0.75  # halfway to half the peak

    def test_smc_gmp_and_the_update_that_it_lacks(self) -> None:
        timetable = timetable_of("smc-gmp")
        assert steps(timetable) == [500, 1000, 1500, 2000, 2400]
        shares = [update.sparsity / 0.488 for update in timetable.updates]
        assert shares == pytest.approx([0.26, 0.70, 0.92, 0.993, 1.0], abs=0.005)

    def test_smc_gmp_never_rewinds(self) -> None:
        timetable = timetable_of("smc-gmp")
        rates = [timetable.lr_multiplier(step) for step in range(150, 3001)]
        assert rates[0] == 1.0
        assert rates[-1] == 0.0
        assert all(later < earlier for earlier, later in pairwise(rates))

    def test_the_law_at_its_reference(self) -> None:
        timetable = timetable_of("glue-90", steps_per_epoch=1000)
        assert timetable.total_steps == 30_000
        assert steps(timetable) == [2000, 6000, 10_000, 14_000, 18_000, 22_000, 26_000]


class TestLaw:
    def test_work_adds_up_when_sparsities_compose(self) -> None:
        assert log_compression(0.99) == pytest.approx(2 * log_compression(0.9))

    @given(st.floats(0.01, 0.999))
    def test_the_first_update_does_its_share(self, target: float) -> None:
        assert log_compression(first_sparsity(target)) == pytest.approx(0.4 * log_compression(target))

    @given(st.floats(0.01, 0.999), st.floats(0.01, 0.999))
    def test_a_higher_target_is_never_given_less(self, low: float, high: float) -> None:
        low, high = sorted((low, high))
        assert scaled_epochs(low) <= scaled_epochs(high)
        assert scaled_updates(low) <= scaled_updates(high)

    @given(st.floats(0, 0.99), st.floats(0, 0.99))
    def test_the_peak_and_the_first_update_rise_with_the_target_without_a_jump(
        self, low: float, high: float
    ) -> None:
        low, high = sorted((low, high))
        # Their slopes are largest at 0.99: 1 / 0.01, and 0.4 / 0.01 ** 0.6.
        assert 0 <= scaled_peak(1.0, high) - scaled_peak(1.0, low) <= 100 * (high - low) + 1e-9
        assert 0 <= first_sparsity(high) - first_sparsity(low) <= 6.4 * (high - low) + 1e-9

    @pytest.mark.parametrize(("target", "updates"), [(0.05, 2), (0.5, 2), (0.9, 7), (0.99, 14)])
    def test_updates_in_proportion_to_log_compression(self, target: float, updates: int) -> None:
        assert scaled_updates(target) == updates

    @pytest.mark.parametrize(
        ("start", "steps_per_epoch", "first", "warmup"),
        [("fine-tuned", 100, 20, 20), ("pretrained", 100, 90, 45), ("pretrained", 1, 90, 45)],
    )
    def test_the_dense_phase_depends_on_the_start_and_the_epochs(
        self, start: Start, steps_per_epoch: int, first: int, warmup: int
    ) -> None:
        rate, budget = LearningRate(rewind=True), Budget(batch=1, steps=300)
        timetable = build_timetable(Pruning(sparsity=0.9), rate, budget, steps_per_epoch, start)
        assert (steps(timetable)[0], steps(timetable)[-1], len(timetable.updates)) == (first, 260, 7)
        assert timetable.warmup_steps == warmup
        assert timetable.lr_multiplier(first) == 1.0
        highest = max(map(timetable.lr_multiplier, range(first)))
        assert highest == (pytest.approx(0.095) if start == "fine-tuned" else 1.0)

    def test_a_dense_run_has_no_warmup_by_default(self) -> None:
        assert build_timetable(None, LR, Budget(batch=1, steps=300), 100, "fine-tuned").warmup_steps == 0

    @given(
        st.sampled_from(["pretrained", "fine-tuned"]), st.integers(1, 5000), st.integers(1, 1000), st.data()
    )
    def test_a_longer_run_is_never_given_a_shorter_phase(
        self, start: Start, total: int, steps_per_epoch: int, data: st.DataObject
    ) -> None:
        longer = total + data.draw(st.integers(0, 5000))
        short, long = (dense_steps(start, length, steps_per_epoch) for length in (total, longer))
        assert 0 <= short <= long <= short + (longer - total)
        assert dense_steps(start, total, steps_per_epoch) < max(2, total * 26 // 30)

    @given(st.integers(1, 5000), st.integers(0, 5000))
    def test_a_longer_run_has_a_longer_recovery(self, total: int, more: int) -> None:
        short, long = recovery_steps(total), recovery_steps(total + more)
        assert 0 <= short <= long <= short + more
        assert total * 4 / 30 <= short < max(2, total)
        assert short >= min(40, total * 4 // 10)

    @given(st.floats(0.01, 0.999), st.sampled_from(["pretrained", "fine-tuned"]), st.integers(8, 500))
    def test_every_run_has_as_many_updates_as_fit_and_ends_on_its_target(
        self, target: float, start: Start, total: int
    ) -> None:
        timetable = build_timetable(Pruning(sparsity=target), LR, Budget(batch=1, steps=total), 20, start)
        assert timetable.updates[-1].sparsity == target
        room = timetable.updates[-1].step - timetable.updates[0].step + 1
        assert len(timetable.updates) == min(scaled_updates(target), room)

    @pytest.mark.parametrize(("total", "rewind"), [(94, False), (448, False), (449, True), (700, True)])
    def test_the_rate_returns_to_its_peak_where_updates_are_far_apart(self, total: int, rewind: bool) -> None:
        budget = Budget(batch=1, steps=total)
        made = build_timetable(Pruning(sparsity=0.9), LR, budget, 300, "fine-tuned")
        assert made.rewind == rewind
        assert min(b - a for a, b in pairwise(steps(made))) in (range(60, 100) if rewind else range(60))
        for by_hand in (True, False):
            rate = LearningRate(rewind=by_hand)
            assert build_timetable(Pruning(sparsity=0.9), rate, budget, 300).rewind == by_hand

    def test_a_single_update_rewinds_where_the_rest_of_the_run_is_long(self) -> None:
        for total, rewind in ((60, False), (100, True)):
            once = Pruning.model_validate({"sparsity": 0.9, "curve": "one-shot", "start": "10 %"})
            assert build_timetable(once, LR, Budget(batch=1, steps=total), 300).rewind == rewind

    def test_the_peak_scales_from_the_dense_rate(self) -> None:
        budget = {"batch": 1, "epochs": 3}
        rate = {"dense": 1e-4}
        peaks = [
            Recipe.model_validate({"name": "x", "budget": budget, "learning_rate": rate, "pruning": pruning})
            for pruning in (None, {"sparsity": 0.5}, {"sparsity": 0.9})
        ]
        assert [made.learning_rate.peak for made in peaks] == pytest.approx(
            [1e-4, 1.693e-4, 3.303e-4], rel=1e-3
        )
        assert scaled_to(peaks[1], 0.9).learning_rate.peak == peaks[2].learning_rate.peak
        assert Recipe.model_validate(peaks[2].model_dump()) == peaks[2]

    def test_a_peak_by_hand_is_not_scaled(self) -> None:
        made = load_recipe("glue-90", ["learning_rate={dense: 1e-4, peak: 2e-4}"])
        assert made.learning_rate.peak == scaled_to(made, 0.5).learning_rate.peak == 2e-4

    def test_a_student_that_is_its_own_teacher_is_fine_tuned(self) -> None:
        base = {"name": "x", "budget": {"batch": 1, "epochs": 3}, "pruning": {"sparsity": 0.9}}
        teacher = {"distillation": {"teacher": "a"}}

        def start(**model: str) -> Start:
            return Recipe.model_validate({**base, **teacher, "model": model}).start

        assert (start(path="a"), start(path="b")) == ("fine-tuned", "pretrained")
        assert (start(path="a", start="pretrained"), start(path="b", start="fine-tuned")) == (
            "pretrained",
            "fine-tuned",
        )
        assert Recipe.model_validate(base | teacher).start == "pretrained"


class TestCurves:
    @pytest.mark.parametrize("curve", [cubic, linear, exponential])
    @given(first=st.floats(0, 0.5), target=st.floats(0.6, 0.99))
    def test_they_join_the_first_sparsity_to_the_target(self, curve, first: float, target: float) -> None:
        assert curve(0.0, first, target) == pytest.approx(first)
        assert curve(1.0, first, target) == pytest.approx(target)

    def test_curves_have_values_worked_out_by_hand(self) -> None:
        assert cubic(0.5, 0.0, 0.8) == pytest.approx(0.8 * 7 / 8)
        assert linear(0.25, 0.4, 0.8) == pytest.approx(0.5)
        assert exponential(0.5, 0.5, 0.875) == pytest.approx(0.75)  # a quarter left of a half, halved twice

    @given(first=st.floats(0, 0.5), target=st.floats(0.6, 0.99), progress=st.floats(0, 0.9))
    def test_exponential_is_linear_in_log_compression(
        self, first: float, target: float, progress: float
    ) -> None:
        expected = log_compression(first) + progress * (log_compression(target) - log_compression(first))
        assert log_compression(exponential(progress, first, target)) == pytest.approx(expected)

    def test_one_shot_is_one_update_on_the_target(self) -> None:
        pruning = Pruning(sparsity=0.5, curve="one-shot", start="40 steps")
        timetable = build_timetable(pruning, LR, Budget(batch=1, steps=100), None)
        assert timetable.updates == (MaskUpdate(40, 0.5),)

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"updates": 5}, [(10, 0.9), (30, 0), (50, 0.9), (70, 0), (90, 0.9)]),
            ({"every": "40 steps"}, [(10, 0.9), (50, 0), (90, 0.9)]),
        ],
    )
    def test_alternating_prunes_and_lets_grow_back_in_turn(
        self, settings: dict[str, Any], expected: list[tuple[int, float]]
    ) -> None:
        assert self.alternating(0.9, 100, start=10, end=90, **settings) == expected

    @given(st.floats(0.01, 0.999), st.integers(100, 500))
    def test_alternating_ends_at_its_target(self, target: float, total: int) -> None:
        updates = self.alternating(target, total)
        assert len(updates) in (3, *range(scaled_updates(target) - 1, scaled_updates(target) + 1))
        assert [sparsity for _, sparsity in updates[::2]] == [target] * (len(updates) // 2 + 1)
        assert not any(sparsity for _, sparsity in updates[1::2])

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"updates": 4}, r"^pruning.updates: value 4 makes 4 mask updates"),
            ({"every": "30 steps"}, r"^pruning.every: value 30 steps makes 4 mask updates"),
        ],
    )
    def test_alternating_refuses_to_end_dense(self, settings: dict[str, Any], said: str) -> None:
        with pytest.raises(UserError, match=said):
            self.alternating(0.9, 100, start=10, end=90, **settings)

    def test_alternating_that_is_scaled_still_ends_sparse(self) -> None:
        made = load_recipe("glue-90", ["pruning={sparsity: 0.9, curve: alternating, updates: 7}"])
        assert [scaled_to(made, target).pruning.updates for target in (0.5, 0.9, 0.97)] == [3, 7, 11]

    @staticmethod
    def alternating(target: float, total: int, **settings: Any) -> list[tuple[int, float]]:
        pruning = Pruning.model_validate({"sparsity": target, "curve": "alternating", **settings})
        made = build_timetable(pruning, LR, Budget(batch=1, steps=total), None)
        return [(update.step, update.sparsity) for update in made.updates]


@st.composite
def prunings(draw: st.DrawFn) -> Pruning:
    target = draw(st.floats(0.01, 0.999))
    start = draw(st.integers(0, 500))
    frequency = draw(
        st.one_of(
            st.builds(dict, updates=st.integers(2, 40)),
            st.builds(dict, every=st.integers(1, 200)),
            st.builds(dict, every=st.floats(0.1, 3).map(lambda amount: Span(amount, "epochs"))),
            st.just({}),
        )
    )
    return Pruning(
        sparsity=target,
        curve=draw(st.sampled_from(["cubic", "exponential", "linear"])),
        first=draw(st.none() | st.floats(0, target, exclude_max=True)),
        start=start,
        end=draw(st.integers(start + 1, 600)),
        **frequency,
    )


class TestAnySchedule:
    @given(prunings(), st.integers(10, 50))
    def test_is_monotone_and_ends_exactly_on_target(self, pruning: Pruning, steps_per_epoch: int) -> None:
        try:
            timetable = build_timetable(pruning, LR, Budget(batch=1, steps=601), steps_per_epoch)
        except UserError as error:
            assume("do not fit" not in str(error))
            raise
        assert timetable.updates[-1] == MaskUpdate(pruning.end.to_steps(1, 1), pruning.sparsity)
        assert all(before.step < after.step for before, after in pairwise(timetable.updates))
        assert all(a.sparsity <= b.sparsity for a, b in pairwise(timetable.updates))
        assert timetable.updates[0].step >= pruning.start.to_steps(1, 1)

    @given(prunings(), st.booleans(), st.integers(0, 600))
    def test_keeps_the_learning_rate_between_nothing_and_the_peak(
        self, pruning: Pruning, rewind: bool, warmup: int
    ) -> None:
        learning_rate = LearningRate(rewind=rewind, warmup=warmup)
        try:
            timetable = build_timetable(pruning, learning_rate, Budget(batch=1, steps=601), 20)
        except UserError:
            assume(False)
        rates = [timetable.lr_multiplier(step) for step in range(602)]
        assert all(0 <= rate <= 1 for rate in rates)
        assert rates[601] == 0.0

    @given(prunings())
    def test_survives_being_written_down(self, pruning: Pruning) -> None:
        try:
            timetable = build_timetable(pruning, LR, Budget(batch=1, steps=601), 20)
        except UserError:
            assume(False)
        assert TypeAdapter(Timetable).validate_json(json.dumps(asdict(timetable))) == timetable


class TestGrid:
    @pytest.mark.parametrize(
        ("first", "every", "expected"),
        [
            (0.5, 10, [5, 15, 25, 28]),  # from the jump
            (0.0, 10, [10, 20, 28]),  # multiples from step 0, none at the start
            (0.5, 23, [5, 28]),  # the next one is the end itself
            (0.5, 1000, [5, 28]),
            (0.0, 1000, [28]),
        ],
    )
    def test_updates_lie_on_the_grid_of_every(self, first: float, every: int, expected: list[int]) -> None:
        pruning = Pruning(sparsity=0.9, first=first, start=5, end=28, every=every)
        assert steps(build_timetable(pruning, LR, Budget(batch=1, steps=30), None)) == expected

    def test_a_fractional_distance_does_not_drift(self) -> None:
        pruning = Pruning(sparsity=0.9, start=0, end="10 epochs", every="0.5 epochs")
        timetable = build_timetable(pruning, LR, Budget(batch=1, epochs=11), 101)
        assert steps(timetable)[::2] == [101 * epoch for epoch in range(11)]

    def test_evenly_spaced_updates_without_a_jump_leave_the_start_alone(self) -> None:
        pruning = Pruning(sparsity=0.9, first=0, start=10, end=40, updates=3)
        assert steps(build_timetable(pruning, LR, Budget(batch=1, steps=50), None)) == [20, 30, 40]


class TestRefusals:
    @pytest.mark.parametrize(
        ("pruning", "budget", "match"),
        [
            ({"updates": 7}, {"steps": 5}, r"budget: value 5 \(in steps\): 7 mask updates do not fit.*larger budget"),
            ({"every": "0.01 epochs"}, {"steps": 50}, r"pruning.every: value 0.01 epochs is 0.1 steps"),
            ({"start": "6 epochs"}, {"steps": 50}, r"pruning.start: value 6 epochs is step 60 of a run of 50"),
            ({"end": "100 %"}, {"steps": 50}, r"pruning.end: value 100 % is step 50 of a run of 50 steps"),
            ({"start": 47}, {"steps": 50}, r"pruning.end: value 30 \(in steps\) is not after pruning.start"),
            ({"start": "5 epochs", "end": "20 steps"}, {"steps": 90}, r"pruning.end: value 20 \(in steps\)"),
            ({}, {"epochs": 0.01}, r"budget.epochs: value 0.01 is less than one step"),
        ],
    )  # fmt: skip
    def test_parts_that_do_not_fit(self, pruning: dict, budget: dict, match: str) -> None:
        with pytest.raises(UserError, match=match):
            build_timetable(Pruning(sparsity=0.9, **pruning), LR, Budget(batch=1, **budget), 10)

    def test_a_warmup_as_long_as_the_run(self) -> None:
        with pytest.raises(
            UserError, match=r"learning_rate.warmup: value 10 steps is step 10 of a run of 10 steps"
        ):
            build_timetable(None, LearningRate(warmup=10), Budget(batch=1, steps=10), None)

    def test_no_length_at_all(self) -> None:
        with pytest.raises(UserError, match=r"budget.epochs: value None: .*give epochs or steps"):
            build_timetable(None, LR, Budget(batch=1), 10)

    def test_epochs_when_their_steps_are_not_known(self) -> None:
        pruning = Pruning(sparsity=0.9, end="2 epochs")
        with pytest.raises(
            UserError, match=r"budget.epochs \(3.0\), pruning.end \(2 epochs\): counted in epochs"
        ):
            build_timetable(pruning, LR, Budget(batch=1, epochs=3), None)

    def test_epochs_of_fewer_examples_than_a_step_takes(self) -> None:
        with pytest.raises(UserError, match=r"^budget.epochs \(3.0\): .*fewer examples .*lower budget.batch"):
            build_timetable(None, LR, Budget(batch=1, epochs=3), 0)

    @pytest.mark.parametrize("ramp", ["hardness", "temperature"])
    def test_distillation_in_epochs_whose_steps_are_not_known(self, ramp: str) -> None:
        line = {"first": 0.5, "final": 1.0, "start": "1 epochs", "end": "2 epochs"}
        recipe = load_recipe("sentiment-90", ["budget.steps=100", "budget.epochs=null"])
        asked = Distillation.model_validate({"teacher": "t", ramp: line})
        recipe = recipe.model_copy(update={"distillation": asked})
        says = rf"^distillation.{ramp}.start \(1 epochs\), distillation.{ramp}.end \(2 epochs\): counted in epochs"
        with pytest.raises(UserError, match=says):
            recipe_timetable(recipe, None)
        assert recipe_timetable(recipe, 10).steps_per_epoch == 10


@pytest.mark.parametrize("steps_per_epoch", [None, 0, -1])
def test_a_recipe_in_steps_needs_no_epochs(steps_per_epoch: int | None) -> None:
    made = build_timetable(Pruning(sparsity=0.9), LR, Budget(batch=1, steps=100), steps_per_epoch)
    assert (made.total_steps, made.steps_per_epoch) == (100, 100)


@pytest.mark.parametrize(
    ("start", "rate", "peak"),
    [
        ("pretrained", LearningRate(peak=4e-4, dense=1e-4), 0.5),
        ("pretrained", LearningRate(peak=1e-4, dense=4e-4), 1.0),
        ("pretrained", LearningRate(peak=1e-4), 1.0),
        ("fine-tuned", LearningRate(peak=4e-4, dense=1e-4), 0.1),
    ],
)
def test_the_dense_phase_has_the_rate_of_its_start(start: Start, rate: LearningRate, peak: float) -> None:
    assert dense_peak(start, rate) == peak
