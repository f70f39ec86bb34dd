"""Training from a store gives the same losses as training with the teacher itself, step by step."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from dsprune.commands.cli import run_command
from dsprune.recipe import load_recipe
from dsprune.testing.commands import command, train_on_rank
from dsprune.testing.pool import RankPool
from tests.distilled import examples, losses, rewrite, write_distilled

KINDS = {
    "full": ("distillation.kind=full", "distillation.dtype=fp32"),
    "topk": ("distillation.kind=topk", "distillation.dtype=fp32", "distillation.k=8"),  # of eight classes
    "hidden": ("distillation.kind=hidden", "distillation.dtype=fp32"),
}
ROUND_OFF = 2e-5


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_distilled(tmp_path_factory.mktemp("distilled"))


@pytest.fixture(scope="module")
def pool_of() -> Iterator[Callable[[int], RankPool]]:
    """The pool of some ranks, which starts on first use."""
    with ExitStack() as stack:
        yield cache(lambda world: stack.enter_context(RankPool(world)))


@pytest.fixture(scope="module")
def two_ranks(pool_of: Callable[[int], RankPool]) -> RankPool:
    return pool_of(2)


def train(pool: RankPool, recipe: Path, output: Path, *settings: str) -> list[float]:
    """The loss of every step."""
    pool.run(pool.size, train_on_rank, str(recipe), [f"output={output}", *settings])
    return losses(output / "distilled")


PLACES = [(1, 3), (2, 2), (3, 0), (4, 1)]
"""Numbers of ranks and ZeRO stages: each once, with and without accumulation."""


@pytest.mark.parametrize(("world", "stage"), PLACES)
def test_a_store_gives_the_losses_of_its_teacher(
    pool_of: Callable[[int], RankPool], recipe: Path, tmp_path: Path, world: int, stage: int
) -> None:
    """Over five epochs of two steps and a remainder; kind, seed and accumulation change with stage and world size."""
    kind = list(KINDS)[PLACES.index((world, stage)) % 3]
    micro_batch = {1: 4, 2: 3, 3: 4, 4: 1}[world] if stage % 2 else 12 // world
    how = (f"deepspeed=zero{stage}", f"budget.micro_batch={micro_batch}", f"seed={world + 10 * stage}")
    store = recipe.parent / f"store-{kind}"  # made by the first that needs it
    ranks = pool_of(world)
    online = train(ranks, recipe, tmp_path / "online", *how)
    stored = train(ranks, recipe, tmp_path / "stored", *how, *KINDS[kind], f"distillation.store={store}")
    assert len(online) == 10
    assert stored == pytest.approx(online, rel=ROUND_OFF)
    assert max(online) > 1.02 * min(online), "the loss changes"


SHORT = ("seed=5", "budget.steps=4")


@pytest.fixture(scope="module")
def short(two_ranks: RankPool, recipe: Path) -> list[float]:
    """The losses of four steps with an online teacher."""
    return train(two_ranks, recipe, recipe.parent / "short", *SHORT)


@pytest.mark.parametrize(
    ("kind", "dtype", "tolerance"), [("full", "fp16", 1e-3), ("topk", "bf16", 1e-2), ("hidden", "fp16", 1e-3)]
)
def test_a_small_type_only_rounds(
    two_ranks: RankPool,
    recipe: Path,
    short: list[float],
    tmp_path: Path,
    kind: str,
    dtype: str,
    tolerance: float,
) -> None:
    store = (*KINDS[kind], f"distillation.dtype={dtype}", f"distillation.store={tmp_path / 'store'}")
    stored = train(two_ranks, recipe, tmp_path / "stored", *SHORT, *store)
    assert stored == pytest.approx(short, rel=tolerance)
    assert stored != pytest.approx(short, rel=1e-7), "rounding is visible"


def test_hardness_and_temperature_may_change_over_the_steps(
    two_ranks: RankPool, recipe: Path, tmp_path: Path
) -> None:
    how = (
        "distillation.hardness={first: 0.2, final: 1.0, end: 5 steps}",
        "distillation.temperature={first: 1.0, final: 4.0}",
    )
    online = train(two_ranks, recipe, tmp_path / "online", *how)
    store = f"distillation.store={recipe.parent / 'store-hidden'}"
    assert train(two_ranks, recipe, tmp_path / "stored", *how, *KINDS["hidden"], store) == pytest.approx(
        online, rel=ROUND_OFF
    )
    constant = train(two_ranks, recipe, tmp_path / "constant")
    assert constant != pytest.approx(online, rel=0.01)


def test_the_parts_of_the_loss_are_logged(two_ranks: RankPool, recipe: Path, tmp_path: Path) -> None:
    total = train(two_ranks, recipe, tmp_path, "distillation.hardness=0.25", "budget.steps=4")
    lines = (tmp_path / "distilled" / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "loss" in row]
    parts = [0.75 * row["task_loss"] + 0.25 * row["distillation_loss"] for row in rows]
    assert total == pytest.approx(parts, rel=ROUND_OFF)
    assert [row["task_loss"] for row in rows] != pytest.approx(total, rel=0.01)


def test_a_dataset_in_another_order_finds_its_rows(two_ranks: RankPool, recipe: Path, tmp_path: Path) -> None:
    """Without dropout and with all examples in each step, their order changes the rounding only.

    The student starts as a copy of the teacher, whose outputs are confident, so wrong labels or rows would be visible.
    """
    rows = examples(recipe.parent / "data" / "train.csv")
    student = without_dropout(recipe.parent / "teacher", tmp_path)
    how = (
        "budget.batch=30", "distillation.hardness=0.5", f"model.path={student}", *KINDS["full"],
        f"distillation.store={tmp_path / 'store'}",
    )  # fmt: skip
    before = train(two_ranks, recipe, tmp_path / "before", *how)
    permuted = rewrite(tmp_path / "permuted.csv", rows[7:] + rows[:7][::-1])
    after = train(two_ranks, recipe, tmp_path / "after", *how, f"task.train={permuted}")
    assert after == pytest.approx(before, rel=ROUND_OFF)
    shifted = zip([text for text, _ in rows], [label for _, label in rows[1:] + rows[:1]], strict=True)
    mislabelled = rewrite(tmp_path / "mislabelled.csv", list(shifted))
    wrong = train(two_ranks, recipe, tmp_path / "wrong", *how, f"task.train={mislabelled}")
    assert wrong != pytest.approx(before, rel=50 * ROUND_OFF), "swapped labels would show"


def without_dropout(model: Path, folder: Path) -> Path:
    """The model without dropout."""
    copy = Path(shutil.copytree(model, folder / "without-dropout"))
    config = json.loads((copy / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def test_a_run_resumes_with_its_store_in_another_place(
    two_ranks: RankPool, recipe: Path, tmp_path: Path
) -> None:
    store, moved = tmp_path / "store", tmp_path / "elsewhere" / "moved"
    how = (*KINDS["topk"], "checkpoints.every=3 steps")
    whole = train(two_ranks, recipe, tmp_path / "whole", *how, f"distillation.store={store}")
    interrupted = two_ranks.run(
        2, command, "train", str(recipe), f"output={tmp_path / 'runs'}", *how, f"distillation.store={store}",
        "--stop-after", "0s",
    )  # fmt: skip
    assert {done.code for done in interrupted} == {75}, interrupted[0].stderr
    assert len(losses(tmp_path / "runs" / "distilled")) < 10
    moved.parent.mkdir()
    store.rename(moved)
    resumed = train(two_ranks, recipe, tmp_path / "runs", *how, f"distillation.store={moved}")
    assert resumed == whole


def test_the_commands_from_train_to_calibrate(
    two_ranks: RankPool, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing store is made first; then the temperature is chosen, with and without labels."""
    store, own = tmp_path / "store", Path(shutil.copy(recipe, tmp_path / "own.yaml"))
    how = ("train", str(recipe), f"distillation.store={store}", f"output={tmp_path / 'runs'}")
    done, other = two_ranks.run(2, command, *how)
    assert (done.code, other.code) == (0, 0), done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith(("teacher: ", "finished: "))]
    assert re.fullmatch(
        rf"teacher: {store}: \d+ records.*, \d+ rows, kind full fp16, [\d.]+ bytes per record, [\d.]+ .?B in all; "
        r"1 of 1 shards to write, [\d.,]+ .?B free",
        lines[0],
    )
    assert lines[1] == f"teacher: finished: {store}"
    assert re.fullmatch(rf"teacher: {store}: \d+ records.*, kind full fp16", lines[2])
    assert [line.partition(": accuracy ")[0] for line in lines[3:]] == [
        f"finished: {tmp_path / 'runs' / 'distilled'}"
    ]

    assert run_command(["calibrate", str(store)]) == 0
    assert "No labels: --recipe adds" in capsys.readouterr().out
    picture = tmp_path / "curves.svg"
    options = ("--recipe", str(own), "--plot", str(picture), "--write", str(own))
    assert run_command(["calibrate", str(store), *options]) == 0
    printed = capsys.readouterr().out
    [share] = re.findall(r"with a label, teacher right in ([\d.]+) % of them", " ".join(printed.split()))
    assert 0 <= float(share) <= 100
    [chosen] = re.findall(r"By the rule: T = ([\d.]+),", printed)
    assert picture.read_text().startswith("<?xml")
    before, after = load_recipe(str(recipe)), load_recipe(str(own), ["name=distilled"])
    assert after.distillation.temperature.first == float(chosen)
    same = after.distillation.model_copy(update={"temperature": before.distillation.temperature})
    assert after.model_copy(update={"distillation": same}) == before


def test_labels_of_other_preprocessing_are_refused(two_ranks: RankPool, recipe: Path, tmp_path: Path) -> None:
    train(two_ranks, recipe, tmp_path, "budget.steps=1", f"distillation.store={tmp_path / 'store'}")
    other = ("calibrate", str(tmp_path / "store"), "task.max_length=20", "--recipe", str(recipe))
    assert (
        f"{tmp_path / 'store'}: the store does not match: preprocessing is TextClassification of at most 24 tokens"
        in two_ranks.run(2, command, *other)[0].error_line
    )
