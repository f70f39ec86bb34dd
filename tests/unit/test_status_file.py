"""`status.json`: written by rank 0 at the start, at intervals, and at the end."""

import math
import os
import time
from pathlib import Path

import pytest

from dsprune.errors import StoppedError, UserError
from dsprune.ranks.ranks import Ranks
from dsprune.train import status_file
from dsprune.train.status_file import StatusFile, read_status

FIRST = Ranks(0, 0, 2)


def begun(path: Path, ranks: Ranks = FIRST) -> StatusFile:
    return StatusFile(path, ranks, step=0, total_steps=10, phase="dense")


def test_it_tells_of_the_start_and_of_the_end(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    before = time.time()
    with begun(path):
        status = read_status(path)
        assert (status.state, status.step, status.total_steps, status.loss) == ("running", 0, 10, None)
        assert (status.pid, status.world_size) == (os.getpid(), 2)
        assert before <= status.started <= status.updated <= time.time()
    assert read_status(path).state == "finished"


def test_it_is_written_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "status.json"
    with begun(path) as status:
        status.update(step=3, loss=0.5)
        assert read_status(path).step == 0
        monkeypatch.setattr(status_file, "WRITE_INTERVAL", 0.0)
        status.update(step=4)
        assert (read_status(path).step, read_status(path).loss) == (4, 0.5)
    assert read_status(path).step == 4


def test_a_nan_loss_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    with begun(path) as status:
        status.update(loss=math.nan)
    assert math.isnan(read_status(path).loss or 0.0)


def test_it_tells_of_a_failure_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    with pytest.raises(RuntimeError), begun(path):
        raise RuntimeError("out of memory\nand a long story")
    assert (read_status(path).state, read_status(path).reason) == ("failed", "RuntimeError: out of memory")


def test_it_tells_of_a_stop(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    with pytest.raises(StoppedError), begun(path):
        raise StoppedError("SIGTERM: stopped at step 3")
    assert (read_status(path).state, read_status(path).reason) == ("stopped", "SIGTERM: stopped at step 3")


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with begun(tmp_path / "status.json", Ranks(1, 1, 2)):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "says"), [(None, "no such file"), ("{", "not the state of a run")])
def test_what_cannot_be_read_is_bad_input(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "status.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=f"status.json: {says}"):
        read_status(path)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(75)])
def test_a_signal_stops_a_run_and_does_not_fail_it(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "status.json"
    with pytest.raises(type(error)), begun(path):
        raise error
    assert (read_status(path).state, read_status(path).reason) == ("stopped", "ended by a signal")


def test_a_process_that_is_ended_from_outside_of_its_context_says_so(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    begun(path).fail("no progress for 600 seconds")
    assert (read_status(path).state, read_status(path).reason) == ("failed", "no progress for 600 seconds")
