"""`dsprune train` refuses a store that is damaged or does not match, with one line and before the first step."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dsprune.distillation.store import open_store
from dsprune.testing.commands import command
from dsprune.testing.damage import flip_a_bit, truncate
from dsprune.testing.pool import RankPool
from dsprune.testing.stores import content
from tests.distilled import examples, rewrite, write_distilled

SHARD, HEAD, MANIFEST = "shard-00000.safetensors", "head.safetensors", "store.json"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_distilled(tmp_path_factory.mktemp("distilled"))


@pytest.fixture(scope="module")
def whole(two_ranks: RankPool, recipe: Path) -> Path:
    store = recipe.parent / "whole"
    answers = two_ranks.run(
        2, command, "teacher", str(recipe), "distillation.kind=hidden", f"distillation.store={store}"
    )
    assert [done.code for done in answers] == [0, 0], answers[0].stderr
    return store


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "store"))


def error_line(pool: RankPool, recipe: Path, store: Path, *settings: str) -> str:
    """The one line of `dsprune train`; neither the store nor a run is changed or made."""
    before = content(store)
    how = ("train", str(recipe), f"distillation.store={store}", f"output={store.parent / 'runs'}", *settings)
    answers = pool.run(2, command, *how)
    assert [done.code for done in answers] == [2, 2], answers[0].stderr
    assert content(store) == before
    assert not list((store.parent / "runs").rglob("*.*"))
    return answers[0].error_line


# ---- damage


def flip(place: int) -> Callable[[Path], None]:
    return lambda path: flip_a_bit(path, place)


def replace_by(other: str) -> Callable[[Path], None]:
    return lambda path: path.write_bytes((path.parent / other).read_bytes())


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (SHARD, truncate, "damaged, it has"),
        (SHARD, flip(-100), "damaged, its content does not match the checksum in its header"),
        (SHARD, flip(60), "damaged, its header was not written by dsprune|its header does not match"),
        (SHARD, flip(3), "damaged, its header is truncated"),
        (SHARD, Path.unlink, "missing: copy it from where the store was made, or make the store again"),
        (SHARD, replace_by(HEAD), "damaged, it has"),
        (HEAD, truncate, "damaged, it has"),
        (HEAD, flip(-1), "damaged, its content does not match the checksum in its header"),
        (HEAD, Path.unlink, "missing: copy it from where the store was made, or make the store again"),
        (MANIFEST, truncate, "not a manifest of format 1 or 2"),
        (MANIFEST, lambda path: path.write_text('{"format": 3}'), "not a manifest of format 1 or 2"),
    ],
)
def test_a_damaged_file_is_named(
    two_ranks: RankPool, recipe: Path, store: Path, name: str, damage: Callable[[Path], object], message: str
) -> None:
    damage(store / name)
    said = error_line(two_ranks, recipe, store)
    assert said.startswith(f"dsprune: {store / name}: ")
    assert any(part in said for part in message.split("|"))


# ---- another origin


def test_off_by_one_truncation(two_ranks: RankPool, recipe: Path, store: Path) -> None:
    said = error_line(two_ranks, recipe, store, "task.max_length=23")
    assert (
        f"{store}: the store does not match: preprocessing is TextClassification of at most 24 tokens" in said
    )
    assert "in the store and TextClassification of at most 23 tokens" in said


def test_off_by_one_truncation_is_in_the_fingerprints_too(
    two_ranks: RankPool, recipe: Path, store: Path
) -> None:
    """If the preprocessing in the manifest were changed, the samples would still not be found."""
    for name in (SHARD, HEAD, MANIFEST):
        raw = (store / name).read_bytes()
        (store / name).write_bytes(raw.replace(b"at most 24 tokens", b"at most 23 tokens"))
    seal(store)
    said = error_line(two_ranks, recipe, store, "task.max_length=23")
    assert "training examples have no record, the first in row " in said
    assert ": the store is of dataset " in said
    assert ": give another distillation.store, which is then made for these data" in said


def seal(store: Path) -> None:
    """Make the manifest agree with the headers of the files, and make the index again."""
    values = json.loads((store / MANIFEST).read_text())
    (store / values.pop("index")["file"]).unlink()
    for entry in (*values["shards"], values["head"]):
        raw = (store / entry["file"]).read_bytes()
        entry["seal"] = hashlib.sha256(raw[8 : 8 + int.from_bytes(raw[:8], "little")]).hexdigest()
    (store / MANIFEST).write_text(json.dumps(values))
    open_store(store)


def test_the_store_of_another_teacher_is_refused(two_ranks: RankPool, recipe: Path, store: Path) -> None:
    said = error_line(two_ranks, recipe, store, f"distillation.teacher={recipe.parent / 'student'}")
    assert f"{store}: the store does not match: teacher is " in said


def test_the_store_of_another_tokenizer_is_refused(
    two_ranks: RankPool, recipe: Path, store: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(recipe.parent / "student", tmp_path / "other"))
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"lovely"', '"lovelier"'))
    said = error_line(two_ranks, recipe, store, f"model.tokenizer={other}")
    assert f"{store}: the store does not match: tokenizer is " in said


def test_an_example_without_a_record(two_ranks: RankPool, recipe: Path, store: Path, tmp_path: Path) -> None:
    rows = examples(recipe.parent / "data" / "train.csv")
    file = rewrite(tmp_path / "more.csv", [*rows, ("the film was and the plot", "film")])
    said = error_line(two_ranks, recipe, store, f"task.train={file}")
    assert (
        f"{store}: 1 of {len(rows) + 1} training examples have no record, the first in row {len(rows) + 1}: "
    ) in said


def test_a_subset_of_the_examples_is_accepted(
    two_ranks: RankPool, recipe: Path, store: Path, tmp_path: Path
) -> None:
    how = ("task.max_train=20", "budget.steps=1", f"distillation.store={store}", f"output={tmp_path}")
    answers = two_ranks.run(2, command, "train", str(recipe), *how)
    assert [done.code for done in answers] == [0, 0], answers[0].stderr
    assert f"teacher: {store}: " in answers[0].stderr


def test_another_kind_than_the_recipe_names(two_ranks: RankPool, recipe: Path, store: Path) -> None:
    said = error_line(two_ranks, recipe, store, "distillation.kind=full")
    assert f"{store}: the store does not match: kind is hidden in the store and full here" in said


def test_a_temperature_that_a_top_k_store_does_not_hold(
    two_ranks: RankPool, recipe: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    topk = ("distillation.kind=topk", f"distillation.store={store}")
    answers = two_ranks.run(2, command, "teacher", str(recipe), *topk)
    assert [done.code for done in answers] == [0, 0], answers[0].stderr
    said = error_line(two_ranks, recipe, store, "distillation.temperature=4")
    assert (
        f"distillation.temperature: value 4: {store} is of kind topk and holds 2 only: use one of them"
        in said
    )


def test_an_incomplete_store_is_completed_first(
    two_ranks: RankPool, recipe: Path, store: Path, tmp_path: Path
) -> None:
    before = content(store)
    (store / MANIFEST).unlink()
    how = ("budget.steps=1", f"distillation.store={store}", f"output={tmp_path}", "distillation.kind=hidden")
    answers = two_ranks.run(2, command, "train", str(recipe), *how)
    assert [done.code for done in answers] == [0, 0], answers[0].stderr
    assert content(store) == before
