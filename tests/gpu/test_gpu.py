"""What only a GPU can show: pruning at every ZeRO stage with the CPU's masks, and masking that waits for nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dsprune.kernels import accelerator
from dsprune.masks.bits import pack

pytestmark = pytest.mark.gpu

SCRIPT, ROOT = Path(__file__).with_name("train.py"), Path(__file__).parents[2]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_masks_are_those_of_the_cpu(stage: int, precision: str) -> None:
    port = str(29400 + 10 * stage + len(precision))
    ranks = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    environment = os.environ | ranks | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, SCRIPT, str(stage), precision]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"device": "cuda", "findings": [], "same": [True, True], "pruned": 567, "prunable": 630}


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
