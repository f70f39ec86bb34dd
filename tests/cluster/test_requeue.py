"""Jobs that are stopped, or lose a node, go back into the queue and resume."""

import contextlib
import json
from pathlib import Path

from dsprune.commands.cli import run_command
from tests.cluster.site import PATIENCE, Site
from tests.offline_wandb import read_offline_run


def test_a_run_over_two_nodes_is_stopped_in_every_way_requeued_and_goes_on(site: Site) -> None:
    asked = ("--nodes=2", "--gpus-per-node=1", "--time=30", "--sbatch=--cpus-per-task=1")
    printed = site.dsprune("submit", "long.yaml", *asked)
    job = printed.splitlines()[0].removeprefix("train: job ")
    run = site.folder / "runs" / "long"
    scontrol = ("scontrol", "update", "NodeName=n2")
    for number, disturb in enumerate(
        [
            ("scancel", "--signal=USR1", job),
            ("scancel", "--signal=TERM", job),
            (*scontrol, "State=DOWN", "Reason=test"),
        ],
        start=1,
    ):
        before = newest_checkpoint(run)
        site.slurm.wait_for(lambda last=before: newest_checkpoint(run) != last, job, PATIENCE)
        site.slurm.call(*disturb)
        site.slurm.wait_for(
            lambda count=str(number): site.slurm.field(job, "Restarts") == count, job, PATIENCE
        )
    with contextlib.suppress(AssertionError):  # it may have come back by itself
        site.slurm.call(*scontrol, "State=RESUME")
    assert site.slurm.wait(job, PATIENCE) == "COMPLETED", site.log(job)

    log = site.log(job)
    for attempt, words in enumerate(
        ("SIGUSR1: stopped at step", "SIGTERM: stopped at step", "", "finished: "), 1
    ):
        assert f"2 nodes, attempt {attempt}" in log
        assert words in log
        folder = site.folder / "logs" / f"long-{job}" / f"attempt-{attempt}"
        logs = sorted(folder.iterdir(), key=lambda path: path.name[-10:])  # a node's step begins each name
        assert [path.name[-10:] for path in logs] == ["_rank0.log", "_rank1.log"]
        assert (f"resumes from {run / 'checkpoints'}" in logs[0].read_text()) == (attempt > 1)
    assert log.count("train long.yaml: exit code 75") == 2, (
        "the loss of a node is Slurm's own reason to requeue"
    )
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["step"], status["world_size"]) == ("finished", 300, 2)
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps), "what was logged twice is kept once"
    tracked = [read_offline_run(path) for path in sorted(run.glob("wandb/offline-run-*/run-*.wandb"))]
    # SIGTERM and the loss of a node end the client's own process too, before it can say so.
    assert (tracked[0].exit_code, tracked[0].is_preempting) == (75, True)
    assert (tracked[-1].exit_code, tracked[-1].is_preempting) == (0, False)
    assert len({path.name for path in run.glob("wandb/offline-run-*/run-*.wandb")}) == 1, (
        "named by the run's id"
    )
    assert run_command(["audit", str(run)]) == 0
    assert "finished: accuracy" in site.dsprune("status", run)


def test_a_job_whose_time_is_nearly_up_stops_and_is_requeued(site: Site) -> None:
    """With a margin of all but five seconds, that is at its first steps; Slurm's own signal is turned off."""
    asked = ("--gpus-per-node=1", "--time=2", "--sbatch=--cpus-per-task=1", "--sbatch=--signal=URG@1")
    printed = site.dsprune(
        "submit",
        "long.yaml",
        "name=late",
        "budget.steps=60",
        "checkpoints.margin=115",
        "tracking.wandb=false",
        *asked,
    )
    job = printed.splitlines()[0].removeprefix("train: job ")
    site.slurm.wait_for(lambda: site.slurm.field(job, "Restarts") != "0", job, PATIENCE)
    site.slurm.call("scontrol", "update", f"JobId={job}", "TimeLimit=30")
    assert site.slurm.wait(job, PATIENCE) == "COMPLETED", site.log(job)
    assert "the end time of the Slurm job is near: stopped at step" in site.log(job)
    assert json.loads((site.folder / "runs" / "late" / "status.json").read_text())["step"] == 60


def newest_checkpoint(run: Path) -> str | None:
    latest = run / "checkpoints" / "latest"
    return latest.read_text() if latest.exists() else None
