"""Every row of the benchmarks' suites trains a tiny model, and ends at its sparsity with every invariant."""

import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import dsprune
from dsprune.commands.suite.definition import load_suite, shipped_suites
from dsprune.commands.suite.grid import Grid
from dsprune.commands.suite.launcher import Launcher
from dsprune.commands.suite.resolve import resolve
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Budget, Recipe, Span
from dsprune.testing.pool import RankPool
from dsprune.testing.tiny import VOCABULARY, tiny_bert

SMC = [name for name in shipped_suites() if name.startswith("smc-")]
SUITES = {"classic": ("gmp-squad", 0.9, 30), "smc-arithmetic": ("smc-arithmetic", 0.2, 10)}
"""A recipe, a target and steps (each an epoch) for each suite. The other suites have the same rows."""

ROWS = [(name, method) for name in SUITES for method in load_suite(name).methods]

SMALL = (
    *("task={name: sst2, max_length: 32}", "budget.batch=4", "precision=fp32"),
    *("learning_rate.warmup=0", "learning_rate.scale={}"),
)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(
        tmp_path_factory.mktemp("bert"), num_hidden_layers=1, hidden_size=16, intermediate_size=24
    )


def train_row(comm: Comm, recipe: Recipe, model: str) -> tuple[float, list[str]]:
    """Return the final sparsity, and the findings of the audit."""
    os.environ["LOCAL_RANK"] = str(comm.rank)
    torch.manual_seed(recipe.seed)
    start = AutoModelForSequenceClassification.from_pretrained(model)
    engine, *_ = dsprune.initialize(model=start, config="zero2", recipe=recipe, steps_per_epoch=1)
    for _ in range(engine.timetable.total_steps):
        tokens = torch.randint(5, len(VOCABULARY), (4, 6))
        engine.backward(engine(input_ids=tokens, labels=tokens[:, 0] % 2).loss)
        engine.step()
    findings = [] if engine.pruner is None else list(map(str, engine.pruner.state.audit()))
    sparsity = engine.sparsity()["sparsity_prunable"]
    engine.destroy()
    return sparsity, findings


def test_the_suites_of_smc_bench_have_the_same_rows() -> None:
    assert len({tuple(load_suite(name).methods) for name in SMC}) == 1


@pytest.mark.parametrize(("name", "method"), ROWS)
def test_a_row_of_a_benchmark_trains(one_rank: RankPool, bert: Path, name: str, method: str) -> None:
    base, sparsity, steps = SUITES[name]
    made = Grid(load_suite(name), base, (*SMALL, f"model.path={bert}"), Path("out"))
    first, then = made.parts([method], [sparsity], [1])
    run = [run for part in (*first, *then) for run in part.runs][-1]
    recipe = resolve(run, made, Launcher(Path("out"), 1))
    changes = {"distillation": None, "budget": Budget(steps=steps, batch=4)}
    if recipe.pruning is not None and "every: 1000 steps" in " ".join(run.overrides):
        changes["pruning"] = recipe.pruning.model_copy(update={"every": Span(2.0, "steps")})
    recipe = recipe.model_copy(update=changes)
    [(found, findings)] = one_rank.run(1, train_row, recipe, str(bert))
    assert findings == []
    assert found == pytest.approx(recipe.pruning.sparsity if recipe.pruning else 0.0, abs=1e-3)
