"""`dsprune calibrate --rate`: the search, the short runs, and the written files."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsprune.commands.calibrate.rate import MOST_TRIALS, Trial, search, shortened
from dsprune.commands.cli import run_command
from dsprune.commands.plan.make import make_plan
from dsprune.recipe import Span, dump_recipe, load_recipe
from dsprune.schedule import recipe_timetable
from dsprune.testing.tiny import tiny_bert, tiny_sentiment, write_recipe
from tests.run_folders import write_run


@given(st.floats(1e-6, 1.0), st.floats(-4, 4))
def test_the_search_ends_at_the_valley_of_a_convex_loss(start: float, doublings: float) -> None:
    tried: list[float] = []

    def loss(rate: float) -> float:
        tried.append(rate)
        return abs(math.log2(rate / start) - doublings)

    best = search(start, loss)
    assert abs(math.log2(best / start) - doublings) <= 0.5 + 1e-6
    assert len(set(tried)) == len(tried) <= MOST_TRIALS


def test_the_search_gives_up_where_the_loss_always_falls() -> None:
    assert search(1.0, lambda rate: -rate) == 2.0 ** (MOST_TRIALS - 2)


def test_the_loss_of_a_trial_is_that_of_its_last_quarter() -> None:
    assert Trial((1, 2, 3, 4, 5, 6, 7, 8), (9, 9, 9, 9, 9, 9, 1, 3)).loss == 2
    assert Trial(problem="diverged").loss == math.inf


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    model, data = tiny_bert(tmp_path / "model"), tiny_sentiment(tmp_path / "data", 320)
    return write_recipe(
        tmp_path / "tiny.yaml", model, data, learning_rate={"peak": 4e-3, "warmup": "1 epochs"}
    )


def test_a_short_run_keeps_every_share_of_the_recipe(recipe: Path) -> None:
    loaded = load_recipe(str(recipe), ["pruning.every=1 epochs", "pruning.updates=null"])
    made = make_plan(loaded, 1).timetable
    short = shortened(loaded, made, 1e-3, 20)
    assert (short.name, short.learning_rate.peak, short.budget.steps) == ("tiny-0.001", 1e-3, 20)
    timetable = make_plan(short, 1).timetable
    assert timetable.warmup_steps == made.warmup_steps // 2 == 5
    assert [(u.step, u.sparsity) for u in timetable.updates] == [
        (u.step // 2, u.sparsity) for u in made.updates
    ]
    assert (short.tracking.wandb, str(short.tracking.eval_every)) == (False, "20 steps")


def test_ramps_keep_their_shares_too() -> None:
    loaded = load_recipe(
        "sentiment-90", ["distillation.hardness={first: 0, final: 1, end: 50 steps}", "budget.epochs=2"]
    )
    short = shortened(loaded, recipe_timetable(loaded, 100), 1e-3, 10)
    assert short.distillation.hardness.end == Span(25.0, "%")


def premade(recipe: Path, losses: dict[float, float], overrides: Sequence[str] = ()) -> None:
    """Finished runs at these rates, with given final losses."""
    loaded = load_recipe(str(recipe), overrides)
    timetable, runs = make_plan(loaded, 1).timetable, recipe.parent / "runs" / "tiny-rates"
    for rate, loss in losses.items():
        short = shortened(loaded, timetable, rate, 100)
        run = write_run(runs, f"name={short.name}")
        text = dump_recipe(short.model_copy(update={"output": str(runs)}))
        (run / "recipe.yaml").write_text(text)
        rows = [f'{{"step": {step}, "loss": {loss}}}\n' for step in range(10)]
        (run / "metrics.jsonl").write_text("".join(rows))


def test_the_best_rate_is_shown_drawn_and_written(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    premade(recipe, {2e-3: 0.5, 4e-3: 0.4, 8e-3: 0.3, 16e-3: 0.7})
    picture = recipe.with_suffix(".svg")
    command = ["calibrate", "--rate", "--recipe", str(recipe), "--plot", str(picture), "--write", str(recipe)]
    assert run_command(command) == 0
    assert load_recipe(str(recipe)).learning_rate.peak == 8e-3
    assert "0.008" in next(line for line in capsys.readouterr().out.splitlines() if "->" in line)
    assert "learning_rate.peak = 0.008" in picture.read_text()


def test_the_dense_rate_is_varied_where_the_law_scales_the_peak(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scaled = ["learning_rate={dense: 1.0e-3}"]
    loaded = load_recipe(str(recipe), scaled)
    short = shortened(loaded, make_plan(loaded, 1).timetable, 2e-3, 100)
    rate = short.learning_rate
    assert (rate.dense, rate.is_scaled_to(loaded.pruning.sparsity)) == (2e-3, True)
    premade(recipe, {5e-4: 0.5, 1e-3: 0.4, 2e-3: 0.6}, scaled)
    assert run_command(["calibrate", "--rate", "--recipe", str(recipe), *scaled]) == 0
    assert "learning_rate.dense" in capsys.readouterr().out


def test_a_run_of_other_settings_is_not_taken(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    premade(recipe, {2e-3: 0.5, 4e-3: 0.4, 8e-3: 0.6})
    command = ["calibrate", "--rate", "--recipe", str(recipe), "pruning.sparsity=0.6"]
    assert run_command(command) == 2
    assert "tiny-0.002: was made with another recipe: give another --output" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "calibrate: give a store"),
        (["--rate"], "calibrate: --rate: needs --recipe"),
        (["--rate", "--recipe", "{recipe}", "learning_rate.peak=null"], "'tiny': --rate: no rate to begin with"),
        (["--rate", "--recipe", "{recipe}", "task.train=nothere.csv"], "nothere.csv"),
        (["--rate", "--recipe", "{recipe}", "--write", "nothere.yaml"], "--write: value nothere.yaml"),
        (["--rate", "--recipe", "{recipe}", "--plot", "rates.txt"], "rates.txt"),
        (["runs/store", "learning_rate.peak=1"], "override 'learning_rate.peak=1'"),
    ],
)  # fmt: skip
def test_what_cannot_be_calibrated_is_refused(
    recipe: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], match: str
) -> None:
    assert run_command(["calibrate", *(word.format(recipe=recipe) for word in arguments)]) == 2
    assert match in capsys.readouterr().err
