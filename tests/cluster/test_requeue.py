"""Jobs that are stopped, or lose a node, go back into the queue and resume."""

import contextlib
import json
from pathlib import Path

from dsprune.commands.cli import run_command
from tests.cluster.site import PATIENCE, Site
from tests.offline_wandb import read_offline_run


def test_a_run_over_two_nodes_is_stopped_loses_a_node_and_goes_on(site: Site) -> None:
    asked = ("--nodes=2", "--gpus-per-node=1", "--time=30", "--sbatch=--cpus-per-task=1")
    printed = site.dsprune("submit", "long.yaml", *asked)
    job = printed.splitlines()[0].removeprefix("train: job ")
    run = site.folder / "runs" / "long"
    scontrol = ("scontrol", "update", "NodeName=n2")
    disturb(site, job, run, 2, "scancel", "--signal=USR1", job)
    disturb(site, job, run, 3, *scontrol, "State=DOWN", "Reason=test")
    with contextlib.suppress(AssertionError):  # it may be back already
        site.slurm.call(*scontrol, "State=RESUME")
    assert site.slurm.wait(job, PATIENCE) == "COMPLETED", site.log(job)

    log = site.log(job)
    for attempt, words in enumerate(("SIGUSR1: stopped at step", "", "finished: "), 1):
        assert f"2 nodes, attempt {attempt}" in log
        assert words in log
        folder = site.folder / "logs" / f"long-{job}" / f"attempt-{attempt}"
        # Each name starts with a node's step.
        logs = sorted(folder.iterdir(), key=lambda path: path.name[-10:])
        assert [path.name[-10:] for path in logs] == ["_rank0.log", "_rank1.log"]
        assert (f"resumes from {run / 'checkpoints'}" in logs[0].read_text()) == (attempt > 1)
    assert log.count("train long.yaml: exit code 75") == 1, (
        "the loss of a node is Slurm's own reason to requeue"
    )
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["step"], status["world_size"]) == ("finished", 200, 2)
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps), "what was logged twice is kept once"
    tracked = [read_offline_run(path) for path in sorted(run.glob("wandb/offline-run-*/run-*.wandb"))]
    # The loss of a node also ends the client's process, before it can report it.
    assert (tracked[0].exit_code, tracked[0].is_preempting) == (75, True)
    assert (tracked[-1].exit_code, tracked[-1].is_preempting) == (0, False)
    assert len({path.name for path in run.glob("wandb/offline-run-*/run-*.wandb")}) == 1, (
        "named by the run's id"
    )
    assert run_command(["audit", str(run)]) == 0
    assert "finished: accuracy" in site.dsprune("status", run)


def test_a_job_whose_time_is_nearly_up_or_that_is_terminated_stops_and_is_requeued(site: Site) -> None:
    """The margin leaves five seconds, so it stops at its first steps; Slurm's signal is turned off.

    The test above shows that a requeued job runs to its end.
    """
    asked = ("--gpus-per-node=1", "--time=2", "--sbatch=--cpus-per-task=1", "--sbatch=--signal=URG@1")
    printed = site.dsprune(
        "submit", "long.yaml", "name=late", "checkpoints.margin=115", "tracking.wandb=false", *asked
    )
    job, run = printed.splitlines()[0].removeprefix("train: job "), site.folder / "runs" / "late"
    site.slurm.wait_for_attempt(job, 2, PATIENCE)
    site.slurm.call("scontrol", "update", f"JobId={job}", "TimeLimit=30")
    disturb(site, job, run, 3, "scancel", "--signal=TERM", job)
    site.slurm.call("scancel", job)
    for words in ("the end time of the Slurm job is near: stopped at step", "SIGTERM: stopped at step"):
        assert words in site.log(job)
    assert site.log(job).count(": exit code 75") == 2
    assert site.slurm.wait(job, PATIENCE) == "CANCELLED"
    assert 0 < json.loads((run / "status.json").read_text())["step"] < 200


def disturb(site: Site, job: str, run: Path, attempt: int, *command: str) -> None:
    """Call a command after the run has written another checkpoint, and wait for the job's next attempt."""
    before = newest_checkpoint(run)
    site.slurm.wait_for(lambda: newest_checkpoint(run) != before, job, PATIENCE)
    site.slurm.call(*command)
    site.slurm.wait_for_attempt(job, attempt, PATIENCE)


def newest_checkpoint(run: Path) -> str | None:
    latest = run / "checkpoints" / "latest"
    return latest.read_text() if latest.exists() else None
