"""Runs that are stopped or killed resume with the uninterrupted result, bit for bit, with dropout."""

import shutil
import signal
import time
from pathlib import Path

import pytest

from dsprune.checkpoint.tag_files import TAG_MANIFEST
from dsprune.checkpoint.tags import complete_tags
from dsprune.commands.cli import run_command
from dsprune.testing.compare import differences
from dsprune.train.run_folder import RunFolder
from tests.system.resuming import Workshop, make_workshop, status_of, wait_for


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return make_workshop(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def whole(workshop: Workshop) -> RunFolder:
    """An uninterrupted run on two ranks."""
    ranks = workshop.start("whole")
    assert ranks.wait() == [0, 0], ranks.said()
    return workshop.run("whole")


def test_a_run_keeps_its_newest_checkpoints(whole: RunFolder) -> None:
    assert [folder.name for folder in complete_tags(whole.checkpoints)] == ["global_step40", "global_step30"]
    assert (whole.checkpoints / "latest").read_text() == "global_step40"


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(workshop: Workshop) -> None:
    changes = "deepspeed=zero3", "precision=bf16"
    whole, stopped = workshop.run("peace"), workshop.run("stopped")
    assert workshop.start("peace", *changes).wait() == [0, 0]
    ranks = workshop.start("stopped", *changes)
    wait_for(ranks, stopped, 12)
    ranks.signal(signal.SIGTERM, [1])
    assert ranks.wait() == [75, 75]
    status = status_of(stopped)
    assert 12 <= status.step < 40
    assert (status.state, status.checkpoint) == ("stopped", f"global_step{status.step}")
    said = f"dsprune: SIGTERM: stopped at step {status.step}; run the same command to resume"
    assert ranks.error_lines() == [said]
    ranks = workshop.start("stopped", *changes)
    assert ranks.wait() == [0, 0], ranks.said()
    assert f"resumes from {stopped.checkpoints}/{status.checkpoint}, step {status.step}\n" in ranks.said()
    assert list(differences(whole, stopped)) == []


def test_a_run_of_which_a_rank_was_killed_ends_as_if_it_had_not_been(
    workshop: Workshop, whole: RunFolder
) -> None:
    killed = workshop.run("killed")
    ranks = workshop.start("killed")
    wait_for(ranks, killed, 24)
    ranks.signal(signal.SIGKILL, [0])
    assert ranks.wait() == [-signal.SIGKILL, 1], "the other one ended by itself"
    [line] = ranks.error_lines()
    assert line.startswith("dsprune: rank 1: another rank is gone (")
    assert line.endswith("): run the same command to resume from the newest checkpoint")
    ranks = workshop.start("killed")
    assert ranks.wait() == [0, 0], ranks.said()
    assert f"resumes from {killed.checkpoints}/global_step20, step 20\n" in ranks.said()
    assert list(differences(whole, killed)) == []


def test_a_run_that_was_killed_while_it_saved_goes_on_from_the_checkpoint_before(
    workshop: Workshop, whole: RunFolder
) -> None:
    killed = workshop.run("saving")
    ranks = workshop.start("saving")
    tag, deadline = killed.checkpoints / "global_step20", time.monotonic() + 120
    while not any(tag.glob("*.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    ranks.signal(signal.SIGKILL)
    assert ranks.wait() == [-9, -9]
    assert not (tag / TAG_MANIFEST).exists(), "the moment was missed"
    assert [folder.name for folder in complete_tags(killed.checkpoints)] == ["global_step10"]
    ranks = workshop.start("saving")
    assert ranks.wait() == [0, 0], ranks.said()
    assert f"resumes from {killed.checkpoints}/global_step10, step 10\n" in ranks.said()
    assert list(differences(whole, killed)) == []


def test_a_run_goes_on_at_another_stage_and_on_other_ranks_and_says_so(workshop: Workshop) -> None:
    run = workshop.start_and_stop("moved", step=12)
    step = status_of(run).step
    ranks = workshop.start("moved", "deepspeed=zero3", f"--resume={run.path}", world_size=1)
    assert ranks.wait() == [0], ranks.said()
    line = next(line for line in ranks.said().splitlines() if line.startswith("resumes from"))
    assert (
        f"global_step{step}, step {step}, resharded from another topology: ZeRO stage 2 -> 3, ranks 2 -> 1"
        in line
    )
    assert run_command(["audit", str(run.path)]) == 0
    steps = [line.split(",")[0] for line in run.metrics.read_text().splitlines() if '"loss"' in line]
    assert steps == [f'{{"step": {step}' for step in range(2, 41, 2)], "the log has no gap and nothing twice"


def test_the_best_checkpoint_at_the_target_is_kept(workshop: Workshop) -> None:
    extra = ["checkpoints={every: 10, keep: 1, best: true}", "tracking.eval_every=2"]
    ranks, run = workshop.start("best", *extra, world_size=1), workshop.run("best")
    assert ranks.wait() == [0], ranks.said()
    kept = {folder.name for folder in complete_tags(run.checkpoints)}
    assert len(kept) == 2
    assert "global_step40" in kept
    [best] = kept - {"global_step40"}
    assert 30 < int(best.removeprefix("global_step")) < 40, (
        "before the last mask update the model was not sparse yet"
    )


def test_another_recipe_does_not_go_on(workshop: Workshop, whole: RunFolder) -> None:
    ranks = workshop.start("new", f"--resume={whole.path}", world_size=1)
    assert ranks.wait() == [2]
    assert ranks.error_lines() == [
        f"dsprune: {whole.path}: holds a finished run: give another name=... or output=..., or remove it"
    ]
    unfinished = RunFolder(Path(shutil.copytree(whole.path, workshop.run("unfinished").path)))
    unfinished.summary.unlink()
    ranks = workshop.start("unfinished", "learning_rate.peak=0.1", world_size=1)
    assert ranks.wait() == [2]
    assert ranks.error_lines() == [
        f"dsprune: {unfinished.path}: holds an unfinished run with another learning_rate.peak (0.005 there, 0.1 "
        f"here): give the same recipe to resume, another name=... to start a new run, or remove the folder"
    ]


def test_there_must_be_something_to_go_on_from(workshop: Workshop, tmp_path: Path) -> None:
    ranks = workshop.start("nothing", f"--resume={tmp_path}", world_size=1)
    assert ranks.wait() == [2]
    [line] = ranks.error_lines()
    assert line.startswith(
        f"dsprune: --resume: value {tmp_path}: no complete checkpoint there: give the folder"
    )
    assert not workshop.run("nothing").path.exists()
