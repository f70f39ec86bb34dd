"""Every recipe and every ds_config that comes with the package works."""

import json
import os
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import pytest

import dsprune
from dsprune.commands.plan.make import make_plan
from dsprune.commands.plan.plan import plan
from dsprune.model.pretrained import load_config
from dsprune.ranks.collectives import Comm
from dsprune.recipe import load_recipe, shipped_recipes
from dsprune.tasks.build import build_task
from dsprune.testing.kinds import models
from dsprune.testing.kinds.models import byte_pairs_without_padding, unigrams
from dsprune.testing.pool import RankPool
from dsprune.testing.tiny import tiny_bert
from dsprune.utils.installation import shipped_names
from dsprune.zero.ops import build_ops
from tests.printing import printed
from tests.system.blocks import Blocks, examples

CONFIGS = shipped_names("ds_configs")


WRITERS = {
    "opus-100": (models.mbart, unigrams),
    "causal-language-modeling": (models.gpt2, byte_pairs_without_padding),
}
"""Tasks whose models are not encoders, with a tiny model and its tokenizer."""

SMC_ROWS = {
    "smc-commonsense-qa": ("*embeddings*.weight", "*pooler*.weight", "classifier*.weight"),
    "smc-winogrande": ("*embeddings*.weight",),
    "smc-race": ("*embeddings*.weight", "*pooler*.weight", "classifier*.weight"),
    "smc-arithmetic": ("*embeddings*.weight", "lstm.weight*", "decoder.*weight"),
    "smc-translation-10": ("model.shared.weight", "*embed_positions*"),
}
"""What the headers of these recipes say to include, so that embeddings and head count."""


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny model for the task of a recipe, as deep as the recipes' own."""
    folder = tmp_path_factory.mktemp("models")
    tiny_bert(folder / "bert", num_hidden_layers=12)
    for task, (model, tokenizer) in WRITERS.items():
        models.save(folder / task, model, tokenizer(["the cat sat on the mat"] * 8))
    models.save(folder / "hotprotein-2", models.esm, models.amino_acids(folder))

    def find(name: str) -> Path:
        task = load_recipe(name).task
        return folder / (task.name if (folder / task.name).is_dir() else "bert")

    return find


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_loads_and_plans(name: str, folder_of: Callable[[str], Path]) -> None:
    overrides, asked = [f"model.path={folder_of(name)}", "task.train=null"], load_recipe(name)
    if asked.distillation and asked.model and asked.distillation.teacher == asked.model.path:
        overrides.append(f"distillation.teacher={folder_of(name)}")
    recipe = load_recipe(name, overrides)
    text = printed(plan, recipe, min(8, recipe.budget.batch), None, 67_349, None)
    assert name in text
    assert recipe.pruning is None or f"{100 * recipe.pruning.sparsity:.1f} %" in text


@pytest.mark.parametrize("name", SMC_ROWS)
def test_embeddings_and_head_count_in_a_row_of_smc_bench(name: str, folder_of: Callable[[str], Path]) -> None:
    header = (files("dsprune") / "recipes" / f"{name}.yaml").read_text()
    assert "include" in header or "see smc-commonsense-qa" in header
    pruning = {
        "sparsity": 0.488,
        "include": SMC_ROWS[name],
        "first": 0.0,
        "start": "10 %",
        "end": "80 %",
        "updates": 4,
    }
    if "*embeddings*.weight" in SMC_ROWS[name]:
        of_gts = ["decoder.merge*", "decoder.constants*"] if name == "smc-arithmetic" else []
        pruning["exclude"] = ["*LayerNorm*", *of_gts]
    recipe = load_recipe(name, [f"model.path={folder_of(name)}", f"pruning={json.dumps(pruning)}"])
    made = make_plan(recipe, 1, 200_000)
    task = build_task(recipe.task) if recipe.task else None
    model = task.new_model(load_config(recipe.model.path))
    matrices = {name: weight.numel() for name, weight in model.named_parameters() if weight.dim() == 2}
    # SMC-Bench leaves the encoder's pooler, the layers that merge subtrees, the constants of an equation, and the
    # masked language head dense.
    parts = [f"decoder.{part}.weight" for part in ("merge.value", "merge.gate", "constants")]
    left_out = ("encoder.pooler.dense.weight", *parts, "cls.predictions.transform.dense.weight")
    dense = sum(matrices.pop(matrix, 0) for matrix in left_out)
    known = {"smc-arithmetic": 32 * 32 + 2 * 512 * (2 * 512 + 32) + 512, "smc-winogrande": 32 * 32}
    assert dense == known.get(name, 0)
    assert made.num_prunable == sum(matrices.values())


@pytest.fixture(scope="module")
def rank() -> Iterator[RankPool]:
    build_ops()  # offload needs DeepSpeed's CPU Adam
    with RankPool(1) as pool:
        yield pool


def two_steps(comm: Comm, name: str) -> tuple[int, float, list[str]]:
    os.environ["LOCAL_RANK"] = str(comm.rank)
    recipe = load_recipe(
        "sentiment-90",
        [
            "pruning={sparsity: 0.9, curve: one-shot, start: 1}",
            "budget={steps: 2, batch: 24}",
            "distillation=null",
        ],
    )
    engine, *_ = dsprune.initialize(model=Blocks(), config=name, recipe=recipe)
    for step in range(2):
        tokens, labels = examples()[24 * step : 24 * (step + 1)]
        engine.backward(engine(tokens, labels))
        engine.step()
    sparsity, findings = engine.sparsity()["sparsity_prunable"], engine.pruner.state.audit()
    step = engine.applied_steps
    engine.destroy()
    return step, sparsity, [str(finding) for finding in findings]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shipped_config_trains_and_prunes(rank: RankPool, name: str) -> None:
    [(step, sparsity, findings)] = rank.run(1, two_steps, name)
    assert step == 2
    assert sparsity == round(0.9 * 3 * 15 * 15) / (3 * 15 * 15)
    assert findings == []
