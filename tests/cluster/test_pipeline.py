"""The batch scripts of slurm/ run a pipeline and a suite, one job after the other."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from dsprune.commands.cli import run_command
from tests.cluster.site import PATIENCE, SLURM, Site
from tests.cluster.slurm import GPUS
from tests.offline_wandb import read_offline_run


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
    job = f"{jobs['students']}_900"
    assert site.slurm.wait(job, PATIENCE) == "COMPLETED", site.log(job)
    run = site.folder / "runs" / "student-0.900"
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert (recipe["pruning"]["sparsity"], recipe["tracking"]["group"]) == (0.9, "student")
    assert recipe["seed"] == 7
    [tracked] = run.glob("wandb/offline-run-*/run-*.wandb")
    assert read_offline_run(tracked).run.run_group == "student"
    assert json.loads((run / "status.json").read_text())["world_size"] == GPUS
    assert run_command(["audit", str(run)]) == 0
    logs = site.folder / "logs" / f"students-{site.slurm.field(job, 'JobId')}" / "attempt-1"
    assert sorted(path.name[-10:] for path in logs.iterdir()) == ["_rank0.log", "_rank1.log"]


def test_a_suite_is_an_array_of_teachers_and_one_of_all_others(site: Site) -> None:
    methods = {"taught": {"set": ["distillation={teacher: '{teacher}', store: '{store}'}"]}}
    suite = {"title": "Mine", "sparsity": [0.9], "methods": methods}
    (site.folder / "mine.yaml").write_text(yaml.safe_dump(suite))
    asked = ("--slurm", "--gpus-per-node=1", "--time=30", "--sbatch=--cpus-per-task=1")
    printed = site.dsprune("suite", "mine.yaml", "plain.yaml", *asked).splitlines()
    first, then = (line.removeprefix("suite: job ") for line in printed[:2])
    assert printed[-1] == "when they are done: dsprune report runs/mine"
    for job in (f"{first}_0", f"{then}_1"):
        assert site.slurm.wait(job, PATIENCE) == "COMPLETED", site.log(job)
    home = site.folder / "runs" / "mine"
    for name in ("teacher-seed1", "taught-90-seed1"):
        assert json.loads((home / name / "status.json").read_text())["world_size"] == 1, (
            "as many as GPUs asked"
        )
        assert (home / name / "summary.json").exists()
    assert (home / "store-seed1" / "store.json").exists()
    site.dsprune("report", "runs/mine", "--output", "page")
    assert "<h1>Mine" in (site.folder / "page" / "report.html").read_text()
