"""Tests on a GPU: pruning by every method, with every optimizer, and masking without waiting."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from dsprune.kernels import accelerator
from dsprune.masks.bits import pack
from dsprune.registry import METHODS
from dsprune.testing.compare import differences
from dsprune.testing.tiny import tiny_bert, tiny_sentiment, write_recipe
from dsprune.train.run_folder import RunFolder
from dsprune.utils.ports import free_port
from tests.gpu.processes import run

pytestmark = pytest.mark.gpu

SCRIPT = Path(__file__).with_name("train.py")
ON_TARGET = {"device": "cuda", "findings": [], "pruned": 567, "prunable": 630}
OFFLOADED = {"device": "cpu"}


def train(stage: int, precision: str, **extra: Any) -> Mapping[str, Any]:
    """Run `train.py` like a launcher, and return its result."""
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    ranks["MASTER_PORT"] = str(free_port())
    said = run(SCRIPT, stage, precision, json.dumps(extra), environment=ranks)
    found: Mapping[str, Any] = json.loads(said.splitlines()[-1])
    return found


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_masks_are_those_of_the_cpu(stage: int, precision: str) -> None:
    assert train(stage, precision) == ON_TARGET | {"same": [True, True]}


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_prunes_on_target(method: str) -> None:
    assert train(2, "bf16", pruning={"method": method, "scope": "global"}) == ON_TARGET


@pytest.mark.parametrize("stage", [1, 3])
def test_the_fused_optimizer_of_deepspeed_prunes(stage: int) -> None:
    optimizer = {"type": "AdamW", "params": {"lr": "auto", "weight_decay": "auto"}}
    assert train(stage, "bf16", config={"optimizer": optimizer}) == ON_TARGET | {"same": [True, True]}


@pytest.mark.parametrize("stage", [2, 3])
def test_an_offloaded_optimizer_prunes(stage: int) -> None:
    config = {
        "zero_optimization": {"stage": stage, "offload_optimizer": {"device": "cpu"}},
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "weight_decay": "auto"}},
    }
    assert train(stage, "bf16", config=config) == ON_TARGET | OFFLOADED | {"same": [True, True]}


def test_a_compiled_model_is_pruned() -> None:
    assert train(2, "bf16", compile=True) == ON_TARGET | {"same": [True, True]}


def test_what_is_2_of_4_runs_on_sparse_kernels() -> None:
    pattern = {
        "method": "magnitude",
        "sparsity": 0.5,
        "pattern": "2:4",
        "first": 0,
        "updates": 2,
        "exclude": ["*.down.weight"],  # its 129 inputs are no multiple of four
    }
    found = train(1, "bf16", pruning=pattern)
    assert (found["device"], found["findings"], found["fits"]) == ("cuda", [], True)
    assert found["pruned"] == found["prunable"] / 2


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    data = tiny_sentiment(tmp_path / "data", num_train=320)
    recipe = write_recipe(tmp_path / "recipe.yaml", tiny_bert(tmp_path / "model"), data)
    command = ["-m", "dsprune", "train", recipe, "precision=bf16", "budget.epochs=60"]
    run(*command, "name=whole")
    run(*command, "name=stopped", "--stop-after=2s", status=75)
    run(*command, "name=stopped")
    whole, stopped = (RunFolder(tmp_path / "runs" / name) for name in ("whole", "stopped"))
    assert list(differences(whole, stopped)) == []


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_masking_waits_for_nothing() -> None:
    kept = [pack(torch.arange(size) % 3 > 0).cuda() for size in (100_000, 77)]
    gradients = [torch.ones(size, device="cuda") for size in (100_000, 77)]
    accelerator.mask_(kept, gradients)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            accelerator.mask_(kept, [gradient.clone() for gradient in gradients])
    finally:
        torch.cuda.set_sync_debug_mode("default")
