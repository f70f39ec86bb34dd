"""The variables that `torch.distributed` reads, completed from what launchers set."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from dsprune.errors import UserError
from dsprune.ranks.ranks import completed

MEET = {"MASTER_ADDR": "host", "MASTER_PORT": "1234"}


def ranks(environment: dict[str, str]) -> tuple[str, str, str]:
    found = completed(environment)
    return found["RANK"], found["LOCAL_RANK"], found["WORLD_SIZE"]


def test_without_a_launcher_there_is_one_rank() -> None:
    assert ranks({}) == ("0", "0", "1")
    assert completed({})["MASTER_ADDR"] == "127.0.0.1"
    assert int(completed({})["MASTER_PORT"]) > 0


@pytest.mark.parametrize(
    "leftover", [{"RANK": "1"}, {"LOCAL_RANK": "3"}, {"WORLD_SIZE": "1"}, {"RANK": "1", "LOCAL_RANK": "1"}]
)
def test_a_leftover_variable_is_not_a_launcher(leftover: dict[str, str]) -> None:
    assert ranks(leftover) == ("0", "0", "1")


def test_the_variables_of_torchrun_are_kept() -> None:
    given = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", **MEET}
    assert completed(given) == given


def test_mpirun_on_one_host() -> None:
    given = {
        "OMPI_COMM_WORLD_RANK": "1",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    }
    assert ranks(given) == ("1", "1", "2")
    assert completed(given)["MASTER_ADDR"] == "127.0.0.1"


def test_srun_names_the_node_that_started_the_step() -> None:
    given = {
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",
    }
    assert ranks(given) == ("5", "1", "8")
    assert completed(given)["MASTER_ADDR"] == "10.0.0.1"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"RANK": "4", "WORLD_SIZE": "4", **MEET}, r"^RANK=4, LOCAL_RANK=0, WORLD_SIZE=4: "),
        (
            {"RANK": "0", "LOCAL_RANK": "4", "WORLD_SIZE": "4", **MEET},
            r"^RANK=0, LOCAL_RANK=4, WORLD_SIZE=4: ",
        ),
        ({"RANK": "first", "WORLD_SIZE": "4", **MEET}, r"^RANK=first: "),
        ({"WORLD_SIZE": "4"}, r"^WORLD_SIZE=4: .*RANK"),
        ({"RANK": "0", "WORLD_SIZE": "-4", **MEET}, r"^WORLD_SIZE=-4: "),
        ({"MASTER_PORT": "http"}, r"^MASTER_PORT=http: .*65535"),
        ({"RANK": "0", "WORLD_SIZE": "4", **MEET, "MASTER_PORT": "70000"}, r"^MASTER_PORT=70000: "),
        ({"RANK": "0", "WORLD_SIZE": "4"}, r"^MASTER_ADDR: missing for 4 ranks: "),
    ],
)
def test_what_contradicts_itself_is_refused(given: dict[str, str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        completed(given)


@pytest.fixture
def busy_port() -> Iterator[str]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield str(other.getsockname()[1])


def join(world_size: int, port: str) -> subprocess.CompletedProcess[str]:
    """Join as rank 0, in a process of its own, since a process joins its ranks once."""
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(world_size)}
    command = [sys.executable, "-c", "from dsprune.zero.launch import init_distributed; init_distributed()"]
    environment = os.environ | ranks | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_port_that_is_in_use_is_named(busy_port: str) -> None:
    said = join(2, busy_port).stderr
    assert f"UserError: MASTER_ADDR=127.0.0.1, MASTER_PORT={busy_port}: the ranks cannot meet there" in said
    assert "address already in use" in said


def test_a_single_rank_takes_another_port(busy_port: str) -> None:
    ended = join(1, busy_port)
    assert ended.returncode == 0, ended.stderr
