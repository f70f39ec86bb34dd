"""A run on two hosts with DeepSpeed's multi-node launch; one host is disconnected, and the run resumes on the other."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dsprune.commands.cli import run_command
from dsprune.testing.commands import dsprune_command, environment
from dsprune.testing.tiny import tiny_bert, tiny_sentiment, write_recipe
from tests.cluster.hosts import PROGRAMS, Host, obstacle, probe, two_hosts, write_remote_shell

ROOT = Path(__file__).resolve().parents[2]
WATCHDOG = 30  # seconds without progress after which a rank ends
PATIENCE = 400  # seconds for a start; idle machines need a tenth

# Variables that DeepSpeed's launcher passes to the other hosts, from a file next to the run; it passes PYTHONPATH
# itself.
CARRIED = (
    *("TORCH_EXTENSIONS_DIR", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"),
    *("HF_HUB_OFFLINE", "TORCHDYNAMO_DISABLE"),
)


@pytest.fixture(scope="module")
def hosts(need: Callable[..., None]) -> Iterator[tuple[Host, Host]]:
    need(PROGRAMS, obstacle())
    need({}, probe())
    with two_hosts() as pair:
        yield pair


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, hosts: tuple[Host, Host]) -> Path:
    folder = tmp_path_factory.mktemp("hosts")
    bert = tiny_bert(folder / "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    write_recipe(
        folder / "tiny.yaml", bert, tiny_sentiment(folder / "data", 320, 64),
        budget={"steps": 150, "batch": 32}, pruning={"sparsity": 0.9, "start": 10, "end": 100, "updates": 5},
        checkpoints={"every": 20}, timeout=WATCHDOG,
    )  # fmt: skip
    (folder / "hostfile").write_text("".join(f"{host.name} slots=1\n" for host in hosts))
    own = environment()
    (folder / ".deepspeed_env").write_text(
        "".join(f"{name}={own[name]}\n" for name in CARRIED if name in own)
    )
    return folder


def launch(folder: Path, *command: str | Path) -> subprocess.Popen[str]:
    shell = folder / "bin" if (folder / "bin").exists() else write_remote_shell(folder / "bin")
    own = environment() | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*map(str, command)], cwd=folder, env=own | {"PATH": f"{shell}:{own['PATH']}"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def deepspeed(*options: str) -> list[str]:
    launcher = Path(sys.executable).with_name("deepspeed")
    return [sys.executable, str(launcher), *options, "--module", "dsprune", "train", "tiny.yaml"]


def test_a_run_over_two_hosts_survives_the_loss_of_one(folder: Path, hosts: tuple[Host, Host]) -> None:
    first, second = hosts
    run = folder / "runs" / "tiny"
    process = launch(folder, *deepspeed("--hostfile=hostfile"))
    deadline = time.monotonic() + PATIENCE
    while not (run / "checkpoints" / "latest").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    said = json.loads((run / "status.json").read_text())
    assert (said["host"], said["world_size"]) == (first.name, 2)
    second.cut_off()
    cut = time.monotonic()
    printed, _ = process.communicate(timeout=WATCHDOG + 60)
    assert process.returncode == 1, printed
    assert time.monotonic() - cut < WATCHDOG + 45, "the launcher gives its ranks some seconds to end"
    # The first of these is reported: the failed collective, or the watchdog.
    words = r"dsprune: (rank \d: no progress for 30 seconds|another rank is gone \().*run the same command to resume"
    assert len(re.findall(words, printed)) == 2, printed
    assert not (run / "summary.json").exists()

    again = launch(folder, *first.command(*dsprune_command("train", "tiny.yaml")))
    printed, _ = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, printed
    assert f"resumes from {run / 'checkpoints'}" in printed
    assert json.loads((run / "summary.json").read_text())["steps"] == 150
    assert run_command(["audit", str(run)]) == 0
