"""Triton kernels compile for GPUs that this machine need not have: no spills, and loads of whole vectors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("compile_triton.py")

MOST_REGISTERS = 128
"""Of a thread: with more, a multiprocessor holds too few threads to hide the latency of memory."""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    """The compilation results of each kernel on each GPU, without a cache of earlier runs."""
    cache = {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")), "TRITON_DEFAULT_FP_FUSION": "1"}
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, SCRIPT], env=environment | cache, check=True, capture_output=True, text=True
    )
    found: dict[str, dict[str, int]] = json.loads(done.stdout)
    return found


def test_nothing_is_spilled(kernels: dict[str, dict[str, int]]) -> None:
    assert {name: found["spills"] for name, found in kernels.items() if found["spills"]} == {}


def test_registers_suffice_for_many_threads(kernels: dict[str, dict[str, int]]) -> None:
    used = {name: found["registers"] for name, found in kernels.items()}
    assert {name: registers for name, registers in used.items() if registers > MOST_REGISTERS} == {}


@pytest.mark.parametrize("kernel", ["mask 32", "mask 16", "count", "settle", "settle some ties"])
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
def test_weights_are_read_in_vectors(kernels: dict[str, dict[str, int]], kernel: str, target: str) -> None:
    assert kernels[f"{kernel} {target}"]["load"] == 16
