"""The variables that `torch.distributed` reads, completed from those of launchers."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsprune.commands.cli import run_command
from dsprune.errors import UserError
from dsprune.ranks.ranks import VARIABLES, completed, is_first_on_host
from dsprune.testing.forked import ForkedRanks
from dsprune.utils.ports import free_port

MEET = {"MASTER_ADDR": "host", "MASTER_PORT": "1234"}


def ranks(environment: dict[str, str]) -> tuple[str, str, str]:
    found = completed(environment)
    return found["RANK"], found["LOCAL_RANK"], found["WORLD_SIZE"]


def test_without_a_launcher_there_is_one_rank() -> None:
    assert ranks({}) == ("0", "0", "1")
    assert completed({})["MASTER_ADDR"] == "127.0.0.1"
    assert int(completed({})["MASTER_PORT"]) > 0


@pytest.mark.parametrize(
    "leftover",
    [
        *({"RANK": "1"}, {"LOCAL_RANK": "3"}, {"WORLD_SIZE": "1"}, {"RANK": "1", "LOCAL_RANK": "1"}),
        *(
            {"RANK": "", "LOCAL_RANK": "", "WORLD_SIZE": ""},
            {"WORLD_SIZE": ""},
            {"RANK": "", "WORLD_SIZE": "1"},
        ),
    ],
)
def test_a_leftover_variable_is_not_a_launcher(leftover: dict[str, str]) -> None:
    assert ranks(leftover) == ("0", "0", "1")


def test_the_variables_of_torchrun_are_kept() -> None:
    given = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", **MEET}
    assert completed(given) == given


def test_mpirun_on_one_host() -> None:
    sizes = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
    given = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1", **sizes}
    assert ranks(given) == ("1", "1", "2")
    assert completed(given)["MASTER_ADDR"] == "127.0.0.1"


def test_srun_names_the_node_that_started_the_step() -> None:
    step = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1"}
    given = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", **step}
    assert ranks(given) == ("5", "1", "8")
    assert completed(given)["MASTER_ADDR"] == "10.0.0.1"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"RANK": "4", "WORLD_SIZE": "4", **MEET}, r"^RANK=4, LOCAL_RANK=0, WORLD_SIZE=4: "),
        ({"RANK": "0", "LOCAL_RANK": "4", "WORLD_SIZE": "4", **MEET}, r"^RANK=0, LOCAL_RANK=4, WORLD_SIZE=4: "),
        ({"RANK": "first", "WORLD_SIZE": "4", **MEET}, r"^RANK=first: "),
        ({"WORLD_SIZE": "4"}, r"^WORLD_SIZE=4: .*RANK"),
        ({"RANK": "0", "WORLD_SIZE": "-4", **MEET}, r"^WORLD_SIZE=-4: "),
        ({"MASTER_PORT": "http"}, r"^MASTER_PORT=http: .*65535"),
        ({"RANK": "0", "WORLD_SIZE": "4", **MEET, "MASTER_PORT": "70000"}, r"^MASTER_PORT=70000: "),
        ({"RANK": "0", "WORLD_SIZE": "4"}, r"^MASTER_ADDR: missing for 4 ranks: "),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(given: dict[str, str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        completed(given)


@pytest.mark.parametrize(
    ("given", "prints"),
    [
        ({}, True),
        ({"LOCAL_RANK": "3"}, True),  # left by an earlier launcher
        ({"LOCAL_RANK": ""}, True),
        ({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}, False),
        ({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, True),
        ({"RANK": "0", "LOCAL_RANK": "3", "WORLD_SIZE": "1"}, True),  # to say that they contradict each other
    ],
)
def test_one_process_of_a_host_prints_its_messages(
    given: dict[str, str], prints: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert is_first_on_host() == prints
    assert run_command(["train", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("dsprune: recipe 'nowhere': ") == prints


RANK = [{"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", **MEET} for rank in range(2)]
STEP = [{"SLURM_PROCID": str(rank), "SLURM_STEP_NUM_TASKS": "2", **MEET} for rank in range(2)]


@pytest.mark.parametrize("ranks", [RANK, STEP])
def test_a_command_for_one_process_runs_on_the_first_rank(
    ranks: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["audit", "nowhere"], ["export", "nowhere"], ["submit", "nowhere"]):
        for rank, given in enumerate(ranks):
            for name, value in given.items():
                monkeypatch.setenv(name, value)
            code, said = run_command(arguments), capsys.readouterr().err
            assert code == (2, 0)[rank]
            assert (
                said.startswith(f"dsprune: {arguments[0]} runs on rank 0 alone, and this is rank 1") == rank
            )


@pytest.mark.parametrize(
    "arguments", [["suite", "baselines"], ["calibrate", "--rate", "--recipe", "nowhere"]]
)
def test_a_command_that_starts_ranks_refuses_a_launcher(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in RANK[0].items():
        monkeypatch.setenv(name, value)
    assert run_command(arguments) == 2
    assert "started on 2 ranks, but it starts" in capsys.readouterr().err


@pytest.fixture
def busy_port() -> Iterator[str]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield str(other.getsockname()[1])


JOIN = "from dsprune.zero.launch import init_distributed\n\ninit_distributed()\n"

JOIN_IN_A_SCRIPT = """
import deepspeed
from dsprune.zero.launch import with_environment

with_environment(deepspeed.init_distributed)("gloo")
"""


def join(world_size: int, port: str, folder: Path, text: str = JOIN) -> ForkedRanks:
    """Join as rank 0 in a separate process, because a process joins its ranks only once."""
    script = folder / "join.py"
    script.write_text(text)
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(world_size)}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCH_EXTENSIONS_DIR": str(folder / "built")}
    return ForkedRanks([], 1, folder / "log", script=script, **ranks, **address)


def test_a_port_that_is_in_use_is_named(busy_port: str, tmp_path: Path) -> None:
    process = join(2, busy_port, tmp_path)
    assert process.wait() == [1]
    said = process.said()
    assert f"UserError: MASTER_ADDR=127.0.0.1, MASTER_PORT={busy_port}: the ranks cannot meet there" in said
    assert "address already in use" in said


def test_a_single_rank_takes_another_port(busy_port: str, tmp_path: Path) -> None:
    process = join(1, busy_port, tmp_path)
    assert process.wait() == [0], process.said()


@pytest.mark.parametrize("text", [JOIN, JOIN_IN_A_SCRIPT])
def test_joining_compiles_nothing(text: str, tmp_path: Path) -> None:
    process = join(1, str(free_port()), tmp_path, text)
    assert process.wait() == [0], process.said()
    assert not (tmp_path / "built").exists()
