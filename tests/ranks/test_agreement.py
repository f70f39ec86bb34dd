"""Ranks that agree: to stop after the same step, and on what they run."""

import itertools
import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from dsprune.checkpoint import tag_files, tags
from dsprune.engine.trainer import replaced
from dsprune.errors import UserError
from dsprune.ranks.agreement import check_same
from dsprune.ranks.collectives import Comm
from dsprune.testing.pool import RankPool
from dsprune.train import stopping
from dsprune.train.run_folder import RunFolder
from dsprune.train.stopping import StopRequests


def clock_set_back() -> SimpleNamespace:
    """The module `time` of a system whose clock goes back an hour at each call."""
    looks = itertools.count()
    return SimpleNamespace(time=lambda: time.time() - 3600 * next(looks), monotonic=time.monotonic)


def stopped_at(comm: Comm, folder: str, what: str) -> tuple[int, str]:
    """The step after which this rank stops if an event happens on rank 1 at step 3."""
    ends = {"slurm": str(time.time() + 60), "no end": "Unknown", "past": "1000"}
    os.environ["SLURM_JOB_END_TIME"] = ends.get(what, "inf")
    with (
        replaced(stopping, "time", clock_set_back()) if what == "clock" else nullcontext(),
        StopRequests(RunFolder(Path(folder)), 120.0, 0.0 if what == "deadline" else None) as stops,
    ):
        for step in range(100):
            if step == 3 and dist.get_rank() == 1 and what.startswith("SIG"):
                os.kill(os.getpid(), signal.Signals[what])
            if step == 3 and what in ("file", "clock"):
                (Path(folder) / "stop").touch()
                time.sleep(1.1)  # it is checked once a second
            if reason := stops.agreed():
                return step, reason
    return -1, ""


@pytest.mark.parametrize(
    ("what", "step", "reason"),
    [
        ("SIGTERM", 4, "SIGTERM"),
        ("SIGUSR1", 4, "SIGUSR1"),
        ("deadline", 1, "--stop-after is over"),
        ("slurm", 1, "the end time of the Slurm job is near"),
        ("SIGHUP", 4, "SIGHUP, the terminal is gone"),
        ("SIGINT", 4, "Ctrl-C"),
        ("SIGXCPU", 4, "SIGXCPU, the limit of CPU time"),
        ("file", 4, "dsprune stop"),
        ("clock", 4, "dsprune stop"),
        ("no end", -1, ""),
        ("past", -1, ""),
        ("nothing", -1, ""),
    ],
)
def test_all_ranks_stop_after_the_same_step(
    two_ranks: RankPool, tmp_path: Path, what: str, step: int, reason: str
) -> None:
    assert two_ranks.run(2, stopped_at, str(tmp_path), what) == [(step, reason)] * 2


def interrupted_twice(comm: Comm, folder: str) -> str:
    with StopRequests(RunFolder(Path(folder)), 120.0, None) as stops:
        stops.agreed()
        try:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            return "interrupted"
    return "no error"


def test_the_second_ctrl_c_does_not_wait(two_ranks: RankPool, tmp_path: Path) -> None:
    assert two_ranks.run(2, interrupted_twice, str(tmp_path)) == ["interrupted"] * 2


def error_of_comparing(comm: Comm, facts: list[dict[str, str]]) -> str:
    try:
        check_same(facts[dist.get_rank()])
    except UserError as error:
        return str(error)
    return "no error"


def test_the_first_difference_is_named_on_every_rank(two_ranks: RankPool) -> None:
    facts = [{"torch": "2.13", "the training data": "abc"}, {"torch": "2.13", "the training data": "abd"}]
    host = os.uname().nodename
    says = f"rank 1 on {host}: the training data is abd, and abc on rank 0 on {host}: give all ranks the same"
    assert two_ranks.run(2, error_of_comparing, facts) == [says] * 2
    assert two_ranks.run(2, error_of_comparing, [facts[0]] * 2) == ["no error"] * 2


def listed_apart(comm: Comm, folder: Path) -> tuple[list[str], int | None]:
    """The files that this rank lists in a tag, and the number of files of all ranks that match their lists."""
    with replaced(tags, "LISTED_TOGETHER", 1):
        tags.begin_tag(folder)
        folder.mkdir(exist_ok=True)
        (folder / f"rank-{comm.rank:05d}-of-00002.safetensors").write_text(str(comm.rank))
        if comm.rank == 0:
            (folder / "dsprune.json").write_text("{}")
        tags.commit_tag(folder, 3, latest=False)
    return list(tag_files.read_tag_list(folder, comm.rank, 2) or ()), tag_files.check_files(folder)


def test_each_of_many_ranks_lists_what_it_wrote(two_ranks: RankPool, tmp_path: Path) -> None:
    first, second = two_ranks.run(2, listed_apart, tmp_path / "global_step3")
    assert first == (["dsprune.json", "rank-00000-of-00002.safetensors"], 3)
    assert second == (["rank-00001-of-00002.safetensors"], 3)
    assert tags.complete_tags(tmp_path) == [tmp_path / "global_step3"]
