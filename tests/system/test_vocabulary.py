"""A run that trains only the used embedding rows equals the run that trains all rows, with less memory."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from dsprune.ranks.collectives import Comm
from dsprune.testing.commands import command
from dsprune.testing.pool import RankPool
from dsprune.testing.tiny import NOUNS, tiny_bert
from tests.distilled import losses, write_distilled
from tests.scripts import SCRIPTS, load, table_rows

SIZE = 300
SETTINGS = ("optimizer.weight_decay=0", "pruning.sparsity=0.5", "pruning.start=3")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with a store of its teacher, whose models know 300 tokens."""
    path = write_distilled(tmp_path_factory.mktemp("distilled"), pruning={"sparsity": 0.5})
    names = dict(enumerate(sorted(NOUNS)))
    labels = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    for seed, who in enumerate(("student", "teacher")):
        tiny_bert(path.parent / who, seed=seed, vocab_size=SIZE, **labels)
    return path


def train(pool: RankPool, recipe: Path, name: str, vocabulary: str, *settings: str) -> Path:
    how = (f"name={name}", f"model.vocabulary={vocabulary}", *SETTINGS, *settings)
    answers = pool.run(2, command, "train", str(recipe), *how)
    assert {done.code for done in answers} <= {0, 75}, answers[0].stderr
    return recipe.parent / "runs" / name


def summary(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return values


@pytest.mark.parametrize(("teacher", "stage"), [("store", 2), ("online", 3)])
def test_losses_metrics_and_the_saved_model_are_the_same(
    two_ranks: RankPool, recipe: Path, teacher: str, stage: int
) -> None:
    store = [f"distillation.store={recipe.parent / 'store'}"] if teacher == "store" else []
    settings = (*store, f"deepspeed=zero{stage}")
    whole = train(two_ranks, recipe, f"all-{teacher}", "all", *settings)
    short = train(two_ranks, recipe, f"used-{teacher}", "used", *settings)
    assert losses(short) == pytest.approx(losses(whole), rel=1e-5)
    assert summary(short)["metrics"] == summary(whole)["metrics"]
    model, same = (load_file(run / "model" / "model.safetensors") for run in (whole, short))
    assert model.keys() == same.keys()
    for name, weight in model.items():
        assert_close(same[name], weight, rtol=1e-4, atol=1e-6)
    sparsity = summary(short)["sparsity"]
    assert sparsity["full_vocabulary"] == pytest.approx(summary(whole)["sparsity"]["model"])
    assert sparsity["model"] > sparsity["full_vocabulary"]
    planned = command(Comm(), "plan", str(recipe), "model.vocabulary=used", *SETTINGS).stdout
    missing = 32 * (SIZE - len(json.loads((short / "vocabulary.json").read_text())["kept"]))
    assert f" of {SIZE} tokens: {missing:,} weights are left out, " in planned
    zeros = f"{100 * sparsity['full_vocabulary']:.2f} %"
    assert f"; at the end {zeros} of the weights with them are zero" in " ".join(planned.split())


def test_a_run_is_resumed_audited_and_exported(
    two_ranks: RankPool,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = train(two_ranks, recipe, "once", "used")
    run = train(two_ranks, recipe, "twice", "used", "checkpoints.every=4", "budget.steps=10")
    assert losses(run) == losses(whole)
    (checkpoint,) = sorted((run / "checkpoints").glob("global_step8"))
    for what in (
        ("audit", str(run)),
        ("export", str(run), "--tag", checkpoint.name, "--to", str(tmp_path / "at8")),
    ):
        answers = two_ranks.run(1, command, *what)
        assert [done.code for done in answers] == [0], answers[0].stderr
    exported = load_file(tmp_path / "at8" / "model.safetensors")
    assert exported["bert.embeddings.word_embeddings.weight"].shape == (SIZE, 32)
    small = tmp_path / "small"
    answers = two_ranks.run(1, command, "export", str(run), "--trimmed", "--to", str(small))
    assert [done.code for done in answers] == [0], answers[0].stderr
    data = f"validation={recipe.parent / 'data' / 'validation.csv'}"
    full, trimmed = (
        command(Comm(), "eval", str(model), data, "max_length=24") for model in (run / "model", small)
    )
    assert full.stdout.splitlines()[-1] == trimmed.stdout.splitlines()[-1]
    assert len(load_file(small / "model.safetensors")["bert.embeddings.word_embeddings.weight"]) < 60

    monkeypatch.syspath_prepend(str(SCRIPTS))
    test = tmp_path / "test.csv"
    test.write_text(Path(recipe.parent / "data" / "validation.csv").read_text() + "unheard dog,film\n")
    load("compact_table").main(run, recipe.parent / "student", str(test))
    rows = {row[0]: row for row in table_rows(capsys.readouterr().out)}
    assert len({row[-2] for name, row in rows.items() if name != "dense"}) == 1, "the accuracy of each form"
    sizes = {name: int(row[1].replace(",", "")) for name, row in rows.items()}
    assert sizes["compact, fp16, used tokens"] < sizes["compact, fp16"] < sizes["compact"]
    assert {row[-1] for row in rows.values()} == {"2"}, "unheard and dog are unknown"

    resume = ("--resume", str(checkpoint))
    again = train(two_ranks, recipe, "again", "used", *resume)
    assert losses(again)[-2:] == pytest.approx(losses(whole)[-2:], rel=1e-4)
    how = ("train", str(recipe), "name=other", *SETTINGS, *resume)
    answers = two_ranks.run(2, command, *how)
    assert [done.code for done in answers] == [2, 2], answers[0].stderr
    assert f"{checkpoint}: was trained only with the tokens of vocabulary.json" in answers[0].error_line
