"""The jobs of `dsprune submit` for a recipe, options and sparsities."""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from dsprune.commands.cli import run_command
from dsprune.commands.submit import Request, parse_sparsities, plan_jobs, scripts_folder, submit_jobs
from dsprune.distillation.store.format import MANIFEST
from dsprune.errors import UserError
from dsprune.recipe import Recipe, load_recipe


def test_sparsities_number_the_jobs_in_thousandths() -> None:
    assert parse_sparsities("0.5,0.8, 0.9,.95,0.975") == [500, 800, 900, 950, 975]


@pytest.mark.parametrize("text", ["1", "0", "0.9375", "-0.5", "half", "nan", ""])
def test_what_is_no_sparsity_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"--array: value {text!r}: sparsities are fractions")):
        parse_sparsities(f"0.5,{text}")


def run_train_script(folder: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Print what the batch script of a job passes to dsprune, by a stand-in for what it sources and starts."""
    (folder / "launch.sh").write_text('launch() { shift; printf "%s\\n" "$@"; }\nfinish() { exit "$1"; }\n')
    environment = {"DSPRUNE_SLURM": str(folder), "SLURM_ARRAY_TASK_ID": "500", "PATH": os.environ["PATH"]}
    command = ["bash", str(scripts_folder() / "train.sbatch"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("file", ["no.yaml", "123.yaml", "my recipe.yaml", "[x].yaml", "1e5.yaml"])
def test_a_job_of_an_array_has_a_sound_recipe_whatever_the_file_is_called(tmp_path: Path, file: str) -> None:
    path = tmp_path / file
    path.write_text("name: good\nbudget: {batch: 8, steps: 100}\npruning: {sparsity: 0.9}\n")
    [job] = plan_jobs(load_recipe(str(path)), [str(path), "seed=3"], Request(), [500])
    done = run_train_script(tmp_path, job.arguments)
    assert done.returncode == 0, done.stderr
    name, *overrides = done.stdout.splitlines()
    made = load_recipe(name, overrides)
    assert (made.name, made.tracking.group, made.seed) == ("good-0.500", "good", 3)
    assert sum(override.startswith("name=") for override in overrides) == 1


def test_a_name_on_the_command_line_is_that_of_the_array() -> None:
    [job] = plan_jobs(recipe(name="mine"), ["glue-90", "name=mine", "seed=3"], Request(), [500])
    assert job.arguments == ("glue-90", "seed=3", "name='mine'")


def test_a_sparsity_beside_those_of_an_array_is_refused(tmp_path: Path) -> None:
    arguments = ["glue-90", "pruning.sparsity=0.8"]
    with pytest.raises(UserError, match=r"^--array: the override 'pruning.sparsity=0.8': "):
        plan_jobs(recipe(), arguments, Request(), [500])
    done = run_train_script(tmp_path, arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("pruning.sparsity=0.8: each job of an array")


def recipe(**sections: object) -> Recipe:
    return load_recipe("glue-90", [f"{key}={value}" for key, value in sections.items()])


def test_a_recipe_is_one_job() -> None:
    [job] = plan_jobs(recipe(), ["glue-90"], Request(2, 4, "1-0", "gpu", ("--account=nlp",)), [])
    command = job.command(after=None)
    assert command[0] == "sbatch"
    assert {"--nodes=2", "--gpus-per-node=4", "--time=1-0", "--partition=gpu", "--account=nlp"} <= set(
        command
    )
    assert Path(command[-2]).name == "train.sbatch"
    assert Path(command[-2]).is_file()
    assert command[-1] == "glue-90"


def test_what_is_not_asked_for_is_left_to_the_script() -> None:
    [job] = plan_jobs(recipe(), ["glue-90"], Request(), [])
    assert not [
        option for option in job.options if option.startswith(("--gpus", "--time", "--part", "--array"))
    ]


def test_a_store_that_is_missing_is_made_first(tmp_path: Path) -> None:
    taught = recipe(**{"distillation.teacher": "t", "distillation.store": tmp_path / "store"})
    teacher, train = plan_jobs(taught, ["r"], Request(gpus_per_node=1), [500, 900])
    assert (teacher.what, train.what) == ("teacher", "train")
    assert "--array=500,900" in train.command(after="7")
    assert train.arguments == ("r", "name='glue-90'")
    assert "--dependency=afterok:7" in train.command(after="7")
    assert not [option for option in teacher.options if option.startswith("--array")]
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / MANIFEST).touch()
    assert [job.what for job in plan_jobs(taught, ["r"], Request(gpus_per_node=1), [])] == ["train"]


def test_sparsities_of_a_dense_recipe_are_refused() -> None:
    dense = load_recipe("sentiment-dense", ["budget.batch=8"])
    with pytest.raises(UserError, match="--array: recipe 'sentiment-dense' has no section pruning: add one"):
        plan_jobs(dense, ["sentiment-dense"], Request(), [500])


def test_the_time_is_passed_as_typed() -> None:
    assert "--time=1-12" in Request(time="1-12").options("x")


def test_the_scripts_are_copied_to_be_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped, own = scripts_folder(), tmp_path / "my slurm"
    assert run_command(["slurm-scripts", str(own)]) == 0
    assert capsys.readouterr().out.endswith(f"export DSPRUNE_SLURM='{own}'\n")
    assert sorted(file.name for file in own.iterdir()) == sorted(file.name for file in shipped.iterdir())
    monkeypatch.setenv("DSPRUNE_SLURM", str(own))
    [job] = plan_jobs(recipe(), ["glue-90"], Request(), [])
    assert str(own / "train.sbatch") in job.command(after=None)
    assert run_command(["slurm-scripts", str(own)]) == 2
    assert f"{own}: exists: name a new folder" in capsys.readouterr().err


def test_a_dry_run_needs_no_cluster(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert run_command(["submit", "glue-90", "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("sbatch --parsable --job-name=glue-90 ")
    assert printed.err == "not checked by Slurm: no cluster answers here\n"
    assert run_command(["suite", "guidelines", "sentiment-90", "--slurm", "--dry-run"]) == 0
    assert "suite.sbatch guidelines sentiment-90" in capsys.readouterr().out


def test_a_cluster_that_does_not_answer_is_said_in_a_dry_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sbatch", "sinfo"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert run_command(["submit", "glue-90", "--dry-run"]) == 0
    assert capsys.readouterr().err == "not checked by Slurm: no cluster answers here\n"


@pytest.mark.parametrize("words", [[], ["--nodes=2", "dense.yaml"]])
def test_the_pipeline_says_what_it_needs(words: list[str]) -> None:
    done = subprocess.run(["bash", scripts_folder() / "pipeline.sh", *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"usage: bash \S*pipeline\.sh .* DENSE RECIPE .*\n", done.stderr)


@pytest.mark.parametrize("option", ["account", "--array=1-3", "-a1", ""])
def test_what_is_no_option_for_sbatch_is_refused(option: str) -> None:
    with pytest.raises(UserError, match=f"--sbatch: value '{option}': give one option"):
        Request(more=(option,)).options("x")


def test_scripts_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPRUNE_SLURM", str(tmp_path))
    with pytest.raises(
        UserError, match=f"DSPRUNE_SLURM: {tmp_path}: has no train.sbatch: `dsprune slurm-scripts`"
    ):
        submit_jobs(plan_jobs(recipe(), ["glue-90"], Request(), []), Console(), dry_run=True)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("echo 'not now'", "sbatch: not now: "),
        ("true", "sbatch: exit code 0, and no job number"),
        ("exit 3", "sbatch: exit code 3, and no job number"),
        (r"printf 'sbatch: error: \xff' >&2; exit 1", "sbatch: \ufffd: "),
    ],
)
def test_an_answer_without_the_number_of_a_job_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, says: str
) -> None:
    program = tmp_path / "sbatch"
    program.write_text(f"#!/bin/bash\n[[ $1 == --test-only ]] && exit\n{answer}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        submit_jobs(plan_jobs(recipe(), ["glue-90"], Request(), []), Console(), dry_run=False)
