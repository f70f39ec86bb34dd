"""The batch scripts of slurm/, unedited but for their marked places, on a Slurm of two nodes."""

import contextlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from dsprune.commands.cli import run_command
from dsprune.testing.commands import dsprune_command, environment
from dsprune.testing.offline_wandb import read_offline_run
from dsprune.testing.tiny import tiny_bert, tiny_sentiment, write_recipe
from tests.cluster.site import SLURM, edited_scripts
from tests.cluster.slurm import GPUS, Slurm

PATIENCE = 400  # seconds for a job; quiet machines need a tenth


@dataclass(frozen=True)
class Site:
    """A folder to submit from, the scripts, and a Slurm."""

    folder: Path
    scripts: Path
    slurm: Slurm

    def submit(self, *command: str | Path) -> str:
        """What a command prints that submits jobs."""
        own = {"HOME": str(self.folder), "PYTHONPATH": str(SLURM.parent), "DSPRUNE_SLURM": str(self.scripts)}
        done = subprocess.run(
            [*map(str, command)], cwd=self.folder, env=environment() | self.slurm.environment | own,
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def dsprune(self, *arguments: str | Path) -> str:
        return self.submit(*dsprune_command(*arguments))

    def log(self, job: str) -> str:
        return Path(self.slurm.field(job, "StdOut")).read_text()


@pytest.fixture(scope="module")
def site(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    bert = tiny_bert(folder / "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    data = tiny_sentiment(folder / "data", 320, 64)
    short = {
        "budget": {"steps": 12, "batch": 32},
        "pruning": {"sparsity": 0.7, "start": 2, "end": 6, "updates": 2},
    }
    tracking = {"wandb": True, "log_every": 4}
    write_recipe(
        folder / "long.yaml", bert, data, budget={"steps": 300, "batch": 32}, pruning={"sparsity": 0.9},
        checkpoints={"every": 20}, tracking=tracking,
    )  # fmt: skip
    write_recipe(folder / "dense.yaml", bert, data, **{**short, "pruning": None})
    write_recipe(folder / "plain.yaml", bert, data, **short, output="runs")
    teacher = {
        "teacher": str(folder / "runs" / "dense" / "model"),
        "store": str(folder / "store"),
        "hardness": 0.5,
    }
    write_recipe(folder / "student.yaml", bert, data, **short, distillation=teacher, tracking=tracking)
    return Site(folder, edited_scripts(folder, GPUS, "500,900"), slurm)


@pytest.mark.parametrize("script", sorted(SLURM.iterdir()), ids=lambda path: path.name)
def test_a_script_is_valid_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_pipeline_runs_teacher_store_and_students_one_after_the_other(site: Site) -> None:
    printed = site.submit("bash", site.scripts / "pipeline.sh", "dense.yaml", "student.yaml", "seed=7")
    jobs = dict(line.split() for line in printed.splitlines())
    assert list(jobs) == ["teacher", "store", "students"]
    for before, job in (("teacher", "store"), ("store", "students")):
        assert site.slurm.field(jobs[job], "Dependency").startswith(f"afterok:{jobs[before]}")
    for job in ("teacher", "store"):
        assert site.slurm.wait(jobs[job], PATIENCE) == "COMPLETED", site.log(jobs[job])
    for thousandths, sparsity in (("500", 0.5), ("900", 0.9)):
        job = f"{jobs['students']}_{thousandths}"
        assert site.slurm.wait(job, PATIENCE) == "COMPLETED", site.log(job)
        run = site.folder / "runs" / f"student-0.{thousandths}"
        recipe = yaml.safe_load((run / "recipe.yaml").read_text())
        assert (recipe["pruning"]["sparsity"], recipe["tracking"]["group"]) == (sparsity, "student")
        assert recipe["seed"] == 7
        [tracked] = run.glob("wandb/offline-run-*/run-*.wandb")
        assert read_offline_run(tracked).run.run_group == "student"
        assert json.loads((run / "status.json").read_text())["world_size"] == GPUS
        assert run_command(["audit", str(run)]) == 0
        logs = site.folder / "logs" / f"students-{site.slurm.field(job, 'JobId')}" / "attempt-1"
        assert sorted(path.name[-10:] for path in logs.iterdir()) == ["_rank0.log", "_rank1.log"]


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
        assert (f"goes on from {run / 'checkpoints'}" in logs[0].read_text()) == (attempt > 1)
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
        "submit", "long.yaml", "name=late", "budget.steps=60", "checkpoints.margin=115", *asked
    )
    job = printed.splitlines()[0].removeprefix("train: job ")
    site.slurm.wait_for(lambda: site.slurm.field(job, "Restarts") != "0", job, PATIENCE)
    site.slurm.call("scontrol", "update", f"JobId={job}", "TimeLimit=30")
    assert site.slurm.wait(job, PATIENCE) == "COMPLETED", site.log(job)
    assert "the end time of the Slurm job is near: stopped at step" in site.log(job)
    assert json.loads((site.folder / "runs" / "late" / "status.json").read_text())["step"] == 60


def test_a_suite_is_an_array_of_teachers_and_one_of_all_others(site: Site) -> None:
    methods = {"taught": {"set": ["distillation={teacher: '{teacher}', store: '{store}'}"]}}
    suite = {"title": "Mine", "sparsity": [0.5, 0.9], "methods": methods}
    (site.folder / "mine.yaml").write_text(yaml.safe_dump(suite))
    asked = ("--slurm", "--gpus-per-node=1", "--time=30", "--sbatch=--cpus-per-task=1")
    printed = site.dsprune("suite", "mine.yaml", "plain.yaml", *asked).splitlines()
    first, then = (line.removeprefix("suite: job ") for line in printed[:2])
    assert printed[-1] == "when they are done: dsprune report runs/mine"
    for job in (f"{first}_0", f"{then}_1", f"{then}_2"):
        assert site.slurm.wait(job, PATIENCE) == "COMPLETED", site.log(job)
    home = site.folder / "runs" / "mine"
    for name in ("teacher-seed1", "taught-50-seed1", "taught-90-seed1"):
        assert json.loads((home / name / "status.json").read_text())["world_size"] == 1, (
            "as many as GPUs asked"
        )
        assert (home / name / "summary.json").exists()
    assert (home / "store-seed1" / "store.json").exists()
    site.dsprune("report", "runs/mine", "--output", "page")
    assert "<h1>Mine" in (site.folder / "page" / "report.html").read_text()


def newest_checkpoint(run: Path) -> str | None:
    latest = run / "checkpoints" / "latest"
    return latest.read_text() if latest.exists() else None
