"""`dsprune status`: the progress of runs, from their folders."""

import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from dsprune.checkpoint.tag_files import TAG_MANIFEST, TagManifest
from dsprune.commands.status import SILENCE, read_run_state, status
from dsprune.errors import UserError
from dsprune.train.run_folder import RunFolder
from dsprune.train.status_file import seconds_after_boot
from tests.printing import printed


def write_run(folder: Path, now: float, **changes: Any) -> RunFolder:
    """A run of this process at step 40 of 100, with half a second per step."""
    said = {
        "state": "running", "reason": None, "host": socket.gethostname(), "pid": os.getpid(), "world_size": 2,
        "process_started": seconds_after_boot(psutil.Process()),
        "started": now, "updated": now, "step": 40, "total_steps": 100, "phase": "prune",
        "sparsity": 0.5, "loss": 0.25, "checkpoint": "global_step30",
    }  # fmt: skip
    folder.mkdir()
    (folder / "status.json").write_text(json.dumps(said | changes))
    rows: list[dict[str, Any]] = [
        {"step": step, "loss": 0.25, "seconds_per_step": 0.5} for step in range(4, 41, 4)
    ]
    rows.insert(5, {"step": 22, "update_sparsity": 0.5})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 4')
    tag = folder / "checkpoints" / "global_step30"
    tag.mkdir(parents=True)
    os.utime(tag, (now - 5, now - 5))
    (folder / "checkpoints" / "latest").write_text("global_step30")
    return RunFolder(folder)


@pytest.fixture
def now() -> float:
    return time.time()


def gone() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_running_run_says_how_long_it_takes(tmp_path: Path, now: float) -> None:
    state = read_run_state(write_run(tmp_path / "a", now), now + 2)
    assert (state.name, state.death) == ("running", None)
    assert state.seconds_left == pytest.approx(60 * 0.5 - 2)
    assert state.checkpoint == "global_step30"
    assert state.checkpoint_age == pytest.approx(7, abs=0.01)


def test_a_run_whose_process_is_gone_is_dead(tmp_path: Path, now: float) -> None:
    pid = gone()
    state = read_run_state(write_run(tmp_path / "a", now, pid=pid), now)
    assert state.name == "dead"
    assert state.death == f"process {pid} on {socket.gethostname()} ended without a final status"
    assert state.seconds_left is None


def test_a_process_that_got_the_number_later_is_another(tmp_path: Path, now: float) -> None:
    """This process started later than the one of the run."""
    began = seconds_after_boot(psutil.Process()) - 60
    assert read_run_state(write_run(tmp_path / "a", now, process_started=began), now).name == "dead"


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_changes_nothing(tmp_path: Path, now: float, hours: int) -> None:
    run = write_run(tmp_path / "a", now + 3600 * hours, started=now + 3600 * hours)
    state = read_run_state(run, now)
    assert (state.name, state.death) == ("running", None)
    assert 0 <= state.seconds_left <= 30
    assert state.checkpoint_age >= 0


def test_a_run_elsewhere_is_dead_when_it_is_silent_for_long(tmp_path: Path, now: float) -> None:
    run = write_run(tmp_path / "a", now, host="elsewhere", pid=1, updated=now)
    assert read_run_state(run, now + SILENCE - 1).name == "running"
    state = read_run_state(run, now + SILENCE + 1)
    assert (state.name, state.death) == ("dead", "no update from elsewhere for 5 minutes")


def test_a_slow_run_may_be_silent_for_longer(tmp_path: Path, now: float) -> None:
    """Four steps of 100 seconds between two lines: ten times that is 4,000 seconds."""
    run = write_run(tmp_path / "a", now, host="elsewhere", updated=now)
    run.metrics.write_text(
        run.metrics.read_text().replace('"seconds_per_step": 0.5', '"seconds_per_step": 100')
    )
    assert read_run_state(run, now + 3_900).name == "running"
    assert read_run_state(run, now + 4_100).name == "dead"


def shown(*folders: Path) -> list[str]:
    return printed(status, folders).splitlines()


def test_the_table_has_a_line_for_each_run_and_the_last_words(tmp_path: Path, now: float) -> None:
    write_run(tmp_path / "a", now)
    write_run(tmp_path / "b", now, state="stopped", reason="SIGUSR1")
    write_run(tmp_path / "c", now, state="failed", reason="ValueError: no", checkpoint=None)
    (tmp_path / "c" / "checkpoints" / "latest").unlink()
    done = write_run(tmp_path / "d", now, state="finished")
    done.summary.write_text(json.dumps({"metrics": {"accuracy": 0.9}}))
    lines = shown(*(tmp_path / name for name in "abcd"))
    assert [line.split()[1] for line in lines[1:5]] == ["running", "stopped", "failed", "finished"]
    for part in ("prune", "40 of 100", "50.00 %", "0.2500", "0:00:", "global_step30, 0:00:"):
        assert part in lines[1]
    assert "none" in lines[3]
    assert lines[5:] == [
        f"{tmp_path}/b: stopped: SIGUSR1; run dsprune train again to resume from global_step30",
        f"{tmp_path}/c: failed: ValueError: no",
        f"{tmp_path}/d: finished: accuracy 0.9000",
    ]


def test_a_folder_that_is_no_run_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"status\.json: no such file: give the folder of a run"):
        shown(tmp_path)


def test_a_folder_among_others_that_is_no_run_is_said_to_be_none(tmp_path: Path, now: float) -> None:
    write_run(tmp_path / "a", now)
    (tmp_path / "store").mkdir()
    lines = shown(tmp_path / "store", tmp_path / "a")
    assert lines[1].split()[:2] == [f"{tmp_path}/a", "running"]
    assert lines[2:] == [
        f"{tmp_path}/store/status.json: no such file: give the folder of a run that dsprune train began"
    ]


def test_a_folder_that_does_not_exist_is_bad_input_beside_a_run(tmp_path: Path, now: float) -> None:
    write_run(tmp_path / "a", now)
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        status([tmp_path / "a", tmp_path / "nowhere"], console)
    assert "running" in console.file.getvalue()


def test_a_parent_folder_shows_the_runs_below_it_with_their_whole_names(tmp_path: Path, now: float) -> None:
    for name in ("a-rather-long-name-of-a-run-with-seed-1", "a-rather-long-name-of-a-run-with-seed-2"):
        (tmp_path / "suite").mkdir(exist_ok=True)
        run = write_run(tmp_path / "suite" / name, now)
        complete = TagManifest(step=30, files={}).model_dump_json()
        (run.checkpoints / "global_step30" / TAG_MANIFEST).write_text(complete)
    lines = shown(tmp_path / "suite")
    assert [line.split()[0].rpartition("-")[2] for line in lines[1:]] == ["1", "2"]
    assert "…" not in printed(status, [tmp_path], width=80)
