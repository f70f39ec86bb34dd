"""Every kind of task trains, prunes, distils from a store, resumes and is evaluated, on two ranks at ZeRO 2 or 3."""

import io
import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import BertConfig

import dsprune
from dsprune.checkpoint.tags import complete_tags
from dsprune.commands.audit import audit
from dsprune.distillation.store.format import MANIFEST
from dsprune.errors import UserError
from dsprune.model.fit import set_dropout
from dsprune.model.gts import Graph2TreeConfig, Graph2TreeForEquations, GtsConfig, GtsForEquations
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Task as TaskSettings
from dsprune.recipe import load_recipe
from dsprune.testing.commands import train_on_rank
from dsprune.testing.compare import differences
from dsprune.testing.kinds import models
from dsprune.testing.kinds.kind import KINDS, Kind
from dsprune.testing.pool import RankPool
from dsprune.train.evaluation import evaluate_model
from dsprune.train.run_folder import RunFolder

CPU = torch.device("cpu")
SPANS, TREES, GRAPHS, PAIRS = (
    kind for kind in KINDS if kind.task in ("squad", "equation-generation", "translation")
)
"""The kinds that differ most from the others: windows of a text, trees, trees from graphs, and a decoder."""

RESUMED = (
    "squad",
    "equation-generation",
    "translation",
    "masked-language-modeling",
    "causal-language-modeling",
)
"""Tasks whose runs are resumed too: those kinds, and models whose head is the embedding."""

AT_STAGE_2 = ("stsb", "winogrande", "masked-language-modeling")
"""Tasks that are pruned at ZeRO stage 2; all others are at stage 3, where every forward pass is collective."""

STEPS = 8


@dataclass(frozen=True)
class Trained:
    """A kind with its recipe and a dense model that was trained by it."""

    task: str
    recipe: Path
    settings: TaskSettings
    runs: Path

    def summary(self, name: str) -> dict[str, Any]:
        return json.loads((self.runs / name / "summary.json").read_text())

    def losses(self, name: str) -> list[float]:
        rows = map(json.loads, (self.runs / name / "metrics.jsonl").read_text().splitlines())
        return [row["loss"] for row in rows if "loss" in row]


@pytest.fixture(
    scope="module",
    params=[kind for kind in KINDS if kind is not TREES],  # they are in the graphs' kind, too
    ids=lambda kind: kind.name,
)
def trained(
    two_ranks: RankPool, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    kind: Kind = request.param
    folder = tmp_path_factory.mktemp(kind.task)
    model = models.save(folder / "model", kind.model, kind.tokenizer(folder))
    task = {"name": kind.task, "max_length": 40, **kind.write(folder / "data")}
    recipe = {
        "name": "dense",
        "model": {"path": str(model)},
        "task": task,
        "budget": {"steps": STEPS, "batch": 16},
        "learning_rate": {"peak": 1e-2},
        "tracking": {"log_every": 1, "eval_every": 100},
        "output": str(folder / "runs"),
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    two_ranks.run(2, train_on_rank, str(folder / "recipe.yaml"), [])
    return Trained(kind.task, folder / "recipe.yaml", TaskSettings(**task), folder / "runs")


def error_of_training(comm: Comm, recipe: str, overrides: list[str]) -> str | None:
    try:
        train_on_rank(comm, recipe, overrides)
    except UserError as error:
        return str(error)
    return None


def evaluate_on_rank(comm: Comm, model: str, settings: TaskSettings) -> dict[str, float]:
    return evaluate_model(model, settings, device=CPU, batch_size=2, comm=comm)


def test_the_training_loss_falls(trained: Trained) -> None:
    losses = trained.losses("dense")
    assert len(losses) == STEPS
    assert all(map(math.isfinite, losses))
    assert sum(losses[-2:]) < sum(losses[:2])


def test_two_ranks_give_the_metrics_of_one(two_ranks: RankPool, trained: Trained) -> None:
    model = str(trained.runs / "dense" / "model")
    alone = evaluate_model(model, trained.settings, device=CPU, batch_size=16)
    assert alone == pytest.approx(trained.summary("dense")["metrics"], rel=1e-3, abs=1e-2, nan_ok=True)
    for metrics in two_ranks.run(2, evaluate_on_rank, model, trained.settings):
        assert metrics == pytest.approx(alone, rel=1e-3, abs=1e-2, nan_ok=True)


def test_it_is_pruned_while_it_learns_from_a_store_and_resumes(two_ranks: RankPool, trained: Trained) -> None:
    """Prune with a store, audit, evaluate; go back to an earlier checkpoint, and resume to the same result."""
    name, store = "sparse", trained.runs.parent / "store"
    settings = [
        f"name={name}",
        f"deepspeed=zero{2 if trained.task in AT_STAGE_2 else 3}",
        "pruning={sparsity: 0.75, curve: one-shot, start: 1}",
        "budget.steps=4",
        "checkpoints.every=2 steps",
        f"distillation.teacher={trained.runs / 'dense' / 'model'}",
        f"distillation.store={store}",
        "distillation.hardness=0.5",
    ]
    two_ranks.run(2, train_on_rank, str(trained.recipe), settings)
    assert (store / MANIFEST).is_file()
    summary = trained.summary(name)
    assert summary["sparsity"]["prunable"] == pytest.approx(0.75, abs=1e-3)
    assert all(map(math.isfinite, trained.losses(name)))
    audit(trained.runs / name, Console(file=io.StringIO()))
    metrics = evaluate_model(str(trained.runs / name / "model"), trained.settings, device=CPU)
    assert metrics == pytest.approx(summary["metrics"], rel=1e-3, abs=1e-2, nan_ok=True)
    if trained.task not in RESUMED:
        return
    cut = without_last_checkpoint(RunFolder(trained.runs / name), trained.runs / "cut" / name)
    two_ranks.run(2, train_on_rank, str(trained.recipe), [*settings, f"output={trained.runs / 'cut'}"])
    assert list(differences(RunFolder(trained.runs / name), cut)) == []


def without_last_checkpoint(run: RunFolder, to: Path) -> RunFolder:
    """A copy of a finished run at its second last checkpoint."""
    cut = RunFolder(Path(shutil.copytree(run.path, to)))
    newest, before = complete_tags(cut.checkpoints)
    for folder in (newest, cut.model):
        shutil.rmtree(folder)
    cut.summary.unlink()
    (cut.checkpoints / "latest").write_text(before.name)
    return cut


def test_a_store_gives_the_losses_of_its_teacher_at_every_step(two_ranks: RankPool, trained: Trained) -> None:
    """A store of hidden states; for outputs that are not made by one linear layer, of the outputs."""
    if not compare_with_teacher(two_ranks, trained, "hidden"):
        assert compare_with_teacher(two_ranks, trained, "full")


@pytest.mark.parametrize("trained", [SPANS, GRAPHS, PAIRS], indirect=True, ids=lambda kind: kind.name)
def test_so_do_the_largest_outputs_alone(two_ranks: RankPool, trained: Trained) -> None:
    assert compare_with_teacher(two_ranks, trained, "topk")


def compare_with_teacher(pool: RankPool, trained: Trained, stored: str) -> bool:
    """Compare training on stored fp32 outputs with training on an online teacher; False if the task refuses."""
    folder = trained.runs.parent
    if not (folder / "teacher").exists():
        sharpen(trained.runs / "dense" / "model", folder / "teacher")
    settings = (
        *(f"distillation.teacher={folder / 'teacher'}", "distillation.hardness=0.9", "budget.steps=3"),
        "task.max_validation=2",  # the metrics at the end are not compared, and beam search takes long
    )
    how = (f"model.path={trained.runs / 'dense' / 'model'}", *settings)
    if not (trained.runs / "online").exists():
        pool.run(2, train_on_rank, str(trained.recipe), [*how, "name=online"])
    store = ("distillation.dtype=fp32", "distillation.k=100000", f"distillation.store={folder / stored}")
    kind = [*how, f"name={stored}", f"distillation.kind={stored}", *store]
    error, _ = pool.run(2, error_of_training, str(trained.recipe), kind)
    if stored == "hidden" and error is not None:
        assert "this task's outputs are not made by one linear layer" in error
        return False
    assert error is None
    assert trained.losses(stored) == pytest.approx(trained.losses("online"), rel=1e-4, abs=1e-6)
    return True


def sharpen(model: Path, folder: Path) -> None:
    """The same model with larger weights, so that its outputs are confident."""
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    larger = {name: 3 * value if value.ndim == 2 else value for name, value in weights.items()}
    save_file(larger, folder / "model.safetensors", {"format": "pt"})


MATRICES = ["lstm.weight*", "decoder.*weight"]
SOLVERS = {
    "gts": (GtsConfig, GtsForEquations, MATRICES),
    "graph2tree": (Graph2TreeConfig, Graph2TreeForEquations, [*MATRICES, "graph.*.weight"]),
}


def train_unlike_trees(comm: Comm, stage: int, decoder: str) -> list[float]:
    """The losses of a model whose ranks see trees of different sizes: a single leaf, and two levels of operators."""
    os.environ["LOCAL_RANK"] = str(comm.rank)
    torch.manual_seed(0)
    encoder = BertConfig(vocab_size=20, max_position_embeddings=32, **models.SIZES)
    config, solver, include = SOLVERS[decoder]
    model = solver(config(encoder=encoder.to_dict(), decoder_size=8, num_slots=2))
    set_dropout(model, 0.0)
    recipe = load_recipe(
        "sentiment-90",
        [
            "pruning={sparsity: 0.75, curve: one-shot, start: 1}",
            f"pruning.include={include}",
            "budget={steps: 3, batch: 4}",
            "distillation=null",
            "precision=fp32",
            "learning_rate.peak=0.01",
        ],
    )
    engine, *_ = dsprune.initialize(model=model, config=f"zero{stage}", recipe=recipe)
    losses = []
    for step in range(3):
        is_leaf = (comm.rank + step) % 2 == 0
        labels = torch.tensor([[4], [5]] if is_leaf else [[0, 4, 5, *[-100] * 4], [0, 1, 4, 5, 2, 4, 5]])
        tokens = torch.arange(2 * 6).view(2, 6)
        slots = torch.tensor([[-1, 0, -1, 1, -1, -1]] * 2)
        quantities = {} if decoder == "gts" else {"word_index": tokens, "in_cell": tokens % 2, "ranks": slots}
        loss = engine(tokens, torch.ones_like(tokens), slots, labels=labels, **quantities).loss
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    assert list(engine.pruner.state.audit()) == []
    engine.destroy()
    return losses


@pytest.mark.parametrize(("decoder", "stages"), [("gts", (2, 3)), ("graph2tree", (0, 1, 2, 3))])
def test_ranks_may_see_trees_of_unlike_sizes(
    two_ranks: RankPool, decoder: str, stages: tuple[int, ...]
) -> None:
    whole, *sharded = (two_ranks.run(2, train_unlike_trees, stage, decoder) for stage in stages)
    assert sharded == [[pytest.approx(losses, rel=1e-4) for losses in whole]] * len(sharded)
