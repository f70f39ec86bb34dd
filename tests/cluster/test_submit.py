"""`dsprune submit` against a Slurm: what it refuses, and what it would do."""

from pathlib import Path

import pytest

from dsprune.commands.cli import run_command
from dsprune.commands.submit.jobs import Job
from dsprune.commands.submit.submit import _submit_all
from dsprune.errors import UserError
from dsprune.testing.tiny import write_recipe
from tests.cluster.slurm import Slurm


@pytest.fixture
def recipe(slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    monkeypatch.chdir(tmp_path)
    return str(write_recipe(tmp_path / "tiny.yaml", tmp_path / "bert", tmp_path / "data"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nodes=3"], "--nodes: value 3: partition short has 2 nodes, 2 of them up: ask for 2"),
        (["--gpus-per-node=3"], "--gpus-per-node: value 3: the nodes of partition short have 2 at most"),
        (["--time=2:00:00"], "--time: value 2:00:00: partition short allows 1:00:00 at most"),
        (["--partition=big"], "--partition: value big: there is no such partition: use one of half, short"),
        (["--nodes=2", "--partition=half"], "--nodes: value 2: partition half has 1 nodes, 1 of them up"),
        (["--gpus-per-node=2", "--time=10", "--sbatch=--mem=9999999"], "Requested node configuration is not"),
        (["--array=0.5,1.5"], "--array: value '1.5': sparsities are fractions"),
    ],
)
def test_what_the_cluster_cannot_give_is_refused_at_once(
    recipe: str, slurm: Slurm, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["submit", recipe, *options]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert slurm.call("squeue", "--noheader") == ""
    assert not Path("logs").exists()


def test_a_dry_run_says_what_would_be_submitted(
    recipe: str, slurm: Slurm, capsys: pytest.CaptureFixture[str]
) -> None:
    taught = "distillation={teacher: t, store: s}"
    options = ["--nodes=2", "--gpus-per-node=2", "--time=30", "--array=0.5,0.975", "--dry-run"]
    assert run_command(["submit", recipe, taught, *options]) == 0
    teacher, train = capsys.readouterr().out.splitlines()
    assert teacher.startswith("sbatch --parsable --job-name=tiny --nodes=2 --gpus-per-node=2 --time=30 ")
    assert teacher.endswith(f"teacher.sbatch {recipe} '{taught}'")
    assert "--array=500,975 --dependency=afterok:JOBID" in train
    assert train.endswith(f"train.sbatch {recipe} '{taught}'")
    assert slurm.call("squeue", "--noheader") == ""


def test_a_job_that_is_refused_takes_those_before_it_along(slurm: Slurm, recipe: str) -> None:
    held = Job("train", ("--hold", "--job-name=held", "--output=/dev/null"), (recipe,))
    refused = Job("train", ("--partition=none",), (recipe,))
    with pytest.raises(
        UserError, match=r"invalid partition specified: none .* change what is asked for in: "
    ):
        _submit_all([held, refused])
    assert slurm.call("squeue", "--noheader", "--name=held") == ""


def test_without_slurm_it_says_where_to_go(
    recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert run_command(["submit", recipe]) == 2
    assert capsys.readouterr().err == (
        "dsprune: sbatch: not on PATH: submit on a login node of a Slurm cluster, or load its slurm module\n"
    )


def test_a_cluster_that_is_down_is_said(
    recipe: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["ClusterName=down", "SlurmctldHost=localhost(127.0.0.1)", "SlurmctldPort=9", "NodeName=n1"]
    (tmp_path / "slurm.conf").write_text("\n".join([*config, "PartitionName=p Nodes=n1", ""]))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    assert run_command(["submit", recipe]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == (
        "dsprune: sinfo: slurm_load_partitions: Unable to contact slurm controller (connect failure): "
        "is the cluster up?"
    )


def test_the_batch_scripts_must_be_there(
    recipe: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dsprune.commands.submit.submit.SCRIPTS", tmp_path / "none")
    assert run_command(["submit", recipe]) == 2
    assert (
        f"{tmp_path}/none: no such folder: name that of the batch scripts in DSPRUNE_SLURM"
        in capsys.readouterr().err
    )
