"""`dsprune submit` against a Slurm: what it refuses, and what it would do."""

import shlex
from pathlib import Path

import pytest

from dsprune.commands.cli import run_command
from dsprune.commands.submit import Job, _submit_all
from dsprune.errors import UserError
from dsprune.testing.tiny import write_recipe
from tests.cluster.slurm import Slurm


@pytest.fixture
def recipe(slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    monkeypatch.chdir(tmp_path)
    return str(write_recipe(tmp_path / "tiny.yaml", tmp_path / "bert", tmp_path / "data"))


UNAVAILABLE = "sbatch: allocation failure: Requested node configuration is not available: change what is"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--nodes=3", UNAVAILABLE),
        ("--gpus-per-node=3", UNAVAILABLE),
        ("--sbatch=--mem=9999999", UNAVAILABLE),
        ("--sbatch=--exclude=n1,n2", UNAVAILABLE),
        ("--partition=big", "sbatch: invalid partition specified: big; allocation failure: Invalid partition name"),
        ("--time=1h30m", "sbatch: Invalid --time specification: change what is requested in"),
        ("--sbatch=--frob", "sbatch: unrecognized option '--frob'"),
    ],
)  # fmt: skip
def test_what_sbatch_refuses_is_told_with_its_answer_the_options_and_the_way_out(
    recipe: str, slurm: Slurm, option: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["submit", recipe, "--gpus-per-node=2", "--time=10", option]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert option.removeprefix("--sbatch=") in line
    assert "sinfo lists what the cluster has" in line
    assert slurm.call("squeue", "--noheader") == ""
    assert not Path("logs").exists()


def test_a_partition_with_too_few_nodes_is_refused(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--gpus-per-node=2", "--time=10", "--nodes=2", "--partition=half"]
    assert run_command(["submit", recipe, *asked]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert UNAVAILABLE in line
    assert all(option in line for option in asked)


def test_an_invalid_sparsity_is_refused_before_slurm_is_called(
    recipe: str, slurm: Slurm, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["submit", recipe, "--array=0.5,1.5"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "--array: value '1.5': sparsities are fractions" in line
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
    assert train.endswith(
        shlex.join(["train.sbatch", recipe, taught, "name='tiny'"]).removeprefix("train.sbatch")
    )
    assert slurm.call("squeue", "--noheader") == ""


def test_a_job_that_is_refused_takes_those_before_it_along(slurm: Slurm, recipe: str) -> None:
    held = Job("train", ("--hold", "--job-name=held", "--output=/dev/null"), (recipe,))
    refused = Job("train", ("--partition=none",), (recipe,))
    with pytest.raises(UserError, match=r"invalid partition specified: none.* change what is requested in: "):
        _submit_all([held, refused])
    assert slurm.call("squeue", "--noheader", "--name=held") == ""


def test_without_slurm_it_says_where_to_go(
    recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert run_command(["submit", recipe]) == 2
    assert capsys.readouterr().err == (
        "dsprune: sbatch: not on PATH: submit on a login node of a Slurm cluster, load its slurm module, or print "
        "the commands with --dry-run\n"
    )


def test_a_cluster_that_is_down_is_said(
    recipe: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = [
        "ClusterName=down",
        "SlurmctldHost=localhost(127.0.0.1)",
        "SlurmctldPort=9",
        "MessageTimeout=1",  # seconds of new attempts
        "GresTypes=gpu",
        "NodeName=n1",
    ]
    (tmp_path / "slurm.conf").write_text("\n".join([*config, "PartitionName=p Nodes=n1", ""]))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    assert run_command(["submit", recipe]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert (
        "Unable to contact slurm controller (connect failure): load the site's slurm module, repair its"
        in line
    )


def test_the_batch_scripts_must_be_there(
    recipe: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DSPRUNE_SLURM", str(tmp_path / "none"))
    assert run_command(["submit", recipe]) == 2
    assert f"DSPRUNE_SLURM: {tmp_path}/none: no such folder: name that of" in capsys.readouterr().err
