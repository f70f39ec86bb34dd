"""The meter, the watchdog and the digest of data, which detect problems of a run."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from datasets import Dataset

from dsprune.errors import RunFailedError
from dsprune.ranks import failures as watchdog
from dsprune.ranks.failures import Watchdog, explain_lost_ranks
from dsprune.ranks.ranks import Ranks
from dsprune.recipe import Checkpoints
from dsprune.schedule import Timetable
from dsprune.tasks.examples import data_digest
from dsprune.train.checkpointing import Checkpointer
from dsprune.train.metrics import MAX_SKIPPED, Meter
from dsprune.train.resume import data_remarks
from dsprune.train.run_folder import RunFolder


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def step(meter: Meter, *losses: float, applied: bool = True) -> None:
    for loss in losses:
        meter.add({"loss": torch.tensor(loss)})
    meter.step(applied=applied)


@pytest.mark.usefixtures("alone")
def test_the_losses_of_skipped_steps_do_not_count() -> None:
    meter = Meter(torch.device("cpu"))
    step(meter, 1.0, 2.0)
    step(meter, math.inf, math.nan, applied=False)
    step(meter, 3.0, 4.0)
    assert meter.is_finite()
    assert meter.read()["loss"] == 2.5


@pytest.mark.usefixtures("alone")
def test_a_nan_loss_is_seen() -> None:
    meter = Meter(torch.device("cpu"))
    step(meter, 1.0, math.nan)
    step(meter, 1.0, 1.0)
    assert not meter.is_finite()


@pytest.mark.usefixtures("alone")
def test_a_meter_continues_where_another_was() -> None:
    one, other = Meter(torch.device("cpu")), Meter(torch.device("cpu"))
    step(one, 0.1, 0.2)
    other.restore(one.state())
    for meter in (one, other):
        step(meter, 0.3, 0.4)
    assert one.read()["loss"] == other.read()["loss"]


def test_overflow_without_end_ends_the_run() -> None:
    meter = Meter(torch.device("cpu"))
    for _ in range(MAX_SKIPPED - 1):
        step(meter, math.inf, applied=False)
    step(meter, 1.0)
    for _ in range(MAX_SKIPPED - 1):
        step(meter, math.inf, applied=False)
    with pytest.raises(RunFailedError, match=r"^100 steps in a row were skipped, with NaN or inf in"):
        step(meter, math.inf, applied=False)


def test_a_rank_without_progress_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    reasons: list[str] = []
    monkeypatch.setattr(watchdog.os, "_exit", codes.append)
    with Watchdog(Ranks(3, 0, 4), 0.2, reasons.append) as dog:
        for _ in range(6):
            time.sleep(0.05)
            dog.beat("step 7")
        assert not codes, "it was beaten in time"
        dog.beating(str, "a batch of the evaluation")(1)
        time.sleep(0.6)
    dog._thread.join()  # before the real _exit is back
    assert codes[0] == 1
    assert reasons[0] == "no progress for 0.2 seconds (timeout of the recipe) since a batch of the evaluation"
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith(
        "dsprune: rank 3: no progress for 0.2 seconds (timeout of the recipe) since a batch of the evaluation: "
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("[x.cc:1] Connection closed by peer [::1]:1\nand more"), "[x.cc:1] Connection closed"),
        (RuntimeError("Timed out waiting 9ms\nand more"), "Timed out waiting 9ms)"),
        (dist.DistBackendError(), "DistBackendError)"),
    ],
)
def test_a_lost_rank_is_told_in_one_line(error: RuntimeError, reason: str) -> None:
    with pytest.raises(RunFailedError) as raised, explain_lost_ranks():
        raise error
    assert str(raised.value).startswith(f"another rank is gone ({reason}")
    assert str(raised.value).endswith("): run the same command to resume from the newest checkpoint")


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2"), explain_lost_ranks():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


ROWS = {
    "input_ids": [[1, 2], [3], []],
    "choices": [[[1], [2, 3]], [[4]], []],
    "labels": [0, 1, 2],
    "id": list("abc"),
}


@pytest.mark.parametrize(
    "changed",
    [
        *({"input_ids": [[1], [2, 3], []]}, {"labels": [0, 1, 1]}),
        *({"choices": [[[1, 2], [3]], [[4]], []]}, {"id": list("abd")}),
    ],
)
def test_other_data_have_another_digest(changed: dict[str, list[object]]) -> None:
    assert data_digest(Dataset.from_dict(ROWS)) != data_digest(Dataset.from_dict(ROWS | changed))


def test_data_that_changed_since_the_run_began_are_said(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    timetable = Timetable(3, 1, 0, (), rewind=True, dense_final=0.1, interval_final=0.1, final=0.0)
    assert data_remarks(run, {"train": "a"}) == [], "of an earlier version"
    run.write_start(timetable, 1, "cpu", {"train": "a", "validation": "b"})
    assert data_remarks(run, {"train": "a", "validation": "b"}) == []
    [remark] = data_remarks(run, {"train": "c", "validation": "b"})
    assert remark.startswith("task.train: the examples differ from those at the start of the run")


def test_a_digest_does_not_depend_on_how_data_are_stored(tmp_path: Path) -> None:
    data = Dataset.from_dict(ROWS)
    turned = data.select([2, 1, 0]).select([2, 1, 0])
    mapped = data.map(lambda row: row, batched=True, batch_size=1, cache_file_name=str(tmp_path / "x.arrow"))
    assert data_digest(data) == data_digest(turned) == data_digest(mapped)


def test_an_evaluation_that_is_nan_is_never_the_best(tmp_path: Path) -> None:
    """A correlation with constant outputs is NaN, which is neither smaller nor larger than another value."""
    timetable = Timetable(3, 1, 0, (), rewind=True, dense_final=0.1, interval_final=0.1, final=0.0)
    engine: Any = SimpleNamespace(timetable=timetable, applied_steps=1, global_steps=1)
    unused: Any = None
    saves = Checkpointer(Checkpoints(best=True), RunFolder(tmp_path), engine, unused, unused, unused, None)
    assert not saves.update_best({"validation_pearson": math.nan})
    assert saves.update_best({"validation_pearson": 0.5})
    assert not saves.update_best({"validation_pearson": math.nan})
    assert saves.update_best({"validation_pearson": 0.6})
