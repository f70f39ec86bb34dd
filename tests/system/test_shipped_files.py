"""Every recipe and every ds_config that comes with the package works."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

import dsprune
from dsprune.distributed.comm import Comm
from dsprune.engine.dsconfig import SHIPPED
from dsprune.engine.ops import build_ops
from dsprune.programs.plan.plan import plan
from dsprune.pure.recipe import load_recipe, shipped_recipes
from tests.ranks.pool import RankPool
from tests.system.blocks import Blocks, examples
from tests.tiny import tiny_bert

CONFIGS = sorted(file.stem for file in SHIPPED.glob("*.json"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_loads_and_plans(name: str, bert: Path) -> None:
    recipe = load_recipe(name, [f"model.path={bert}", "task.train=null"])
    console = Console(file=io.StringIO(), width=200)
    plan(recipe, 8, None, 67_349, None, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert name in text
    assert recipe.pruning is None or f"{recipe.pruning.sparsity:.1%}" in text


@pytest.fixture(scope="module")
def rank() -> Iterator[RankPool]:
    build_ops()  # offload needs DeepSpeed's CPU Adam
    with RankPool(1) as pool:
        yield pool


def two_steps(comm: Comm, name: str) -> tuple[int, float, list[str]]:
    os.environ["LOCAL_RANK"] = str(comm.rank)
    recipe = load_recipe(
        "sentiment-90",
        ["pruning={sparsity: 0.9, curve: one-shot, start: 1}", "budget={steps: 2, batch: 24}"],
    )
    engine, *_ = dsprune.initialize(model=Blocks(), config=name, recipe=recipe)
    for step in range(2):
        tokens, labels = examples()[24 * step : 24 * (step + 1)]
        engine.backward(engine(tokens, labels))
        engine.step()
    sparsity, findings = engine.sparsity()["sparsity_prunable"], engine.pruner.audit()
    clock = engine.clock
    engine.deepspeed.destroy()
    return clock, sparsity, [str(finding) for finding in findings]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shipped_config_trains_and_prunes(rank: RankPool, name: str) -> None:
    [(clock, sparsity, findings)] = rank.run(1, two_steps, name)
    assert clock == 2
    assert sparsity == round(0.9 * 3 * 15 * 15) / (3 * 15 * 15)
    assert findings == []
