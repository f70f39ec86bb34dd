"""`dsprune submit`: submit a recipe to Slurm, as consecutive jobs with the batch scripts of slurm/."""

import math
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dsprune.errors import UserError
from dsprune.recipe import Recipe, load_recipe
from dsprune.utils.console import say
from dsprune.utils.files import replace_folder
from dsprune.utils.installation import shipped_folder

__all__ = [
    "Job",
    "Request",
    "copy_scripts",
    "parse_sparsities",
    "plan_jobs",
    "scripts_folder",
    "submit",
    "submit_jobs",
]


def copy_scripts(folder: Path, console: Console) -> None:
    """Copy the shipped batch scripts to a new folder, and print how to use them.

    Raises:
        UserError: the folder exists.
    """
    if folder.exists():
        raise UserError(f"{folder}: exists: name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    replace_folder(folder, _copy_shipped)
    path = shlex.quote(str(folder.resolve()))
    say(console, f"edit what is marked EDIT in {folder}, then: export DSPRUNE_SLURM={path}")


def _copy_shipped(folder: Path) -> None:
    folder.mkdir()
    for script in shipped_folder("slurm").iterdir():
        shutil.copy(script, folder)  # `shutil.copytree` hides the errors of the system in one of its own


def scripts_folder() -> Path:
    """Return the folder of the batch scripts: DSPRUNE_SLURM if it is set, otherwise the shipped one."""
    return Path(os.environ.get("DSPRUNE_SLURM") or shipped_folder("slurm"))


@dataclass(frozen=True)
class Request:
    """The resources of each job; None = those of the batch script.

    Attributes:
        nodes: number of nodes.
        gpus_per_node: GPUs of each node; 0 = no GPUs, one rank per node on CPU.
        time: time limit, in a form of sbatch.
        partition: name of a partition.
        more: further options for sbatch, which override the others.
    """

    nodes: int = 1
    gpus_per_node: int | None = None
    time: str | None = None
    partition: str | None = None
    more: tuple[str, ...] = ()

    def options(self, job_name: str) -> tuple[str, ...]:
        """Return the options for sbatch.

        Raises:
            UserError: one of `more` is no option, or is one that the jobs' numbers depend on.
        """
        for option in self.more:
            if not option.startswith("-") or option.startswith(("--array", "-a")):
                raise UserError(
                    f"--sbatch: value {option!r}: give one option of sbatch, as in --sbatch=--account=NAME; "
                    "an array is one of sparsities (--array) or of a suite's parts"
                )
        named = {"gpus-per-node": self.gpus_per_node, "time": self.time, "partition": self.partition}
        given = (f"--{option}={value}" for option, value in named.items() if value is not None)
        output = "--output=logs/%x-%j.log"
        return (f"--job-name={job_name}", f"--nodes={self.nodes}", *given, output, *self.more)


@dataclass(frozen=True)
class Job:
    """A batch script and its arguments.

    Attributes:
        what: name of the script: `teacher`, `train` or `suite`.
        options: options for sbatch.
        arguments: arguments of the script.
    """

    what: str
    options: tuple[str, ...]
    arguments: tuple[str, ...]

    def command(self, after: str | None) -> list[str]:
        """Return the sbatch command.

        Args:
            after: number of the job that must succeed before this one starts, or None.
        """
        waiting = () if after is None else (f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes")
        script = str(scripts_folder() / f"{self.what}.sbatch")
        return ["sbatch", "--parsable", *self.options, *waiting, script, *self.arguments]


def plan_jobs(
    recipe: Recipe, arguments: Sequence[str], request: Request, sparsities: Sequence[int]
) -> list[Job]:
    """Return the jobs of a recipe; each waits for the one before it.

    Args:
        recipe: the recipe; if its teacher logits store does not exist yet, a separate job makes the store.
        arguments: the recipe and its overrides, as typed.
        request: the resources of each job.
        sparsities: targets in thousandths, one run each; none = the recipe's own.

    Raises:
        UserError: there are sparsities, and the recipe does not prune.
    """
    if sparsities and recipe.pruning is None:
        raise UserError(
            f"--array: recipe {recipe.name!r} has no section pruning: add one, or leave --array out"
        )
    options = request.options(recipe.name)
    settings, jobs = recipe.distillation, []
    if settings is not None and settings.store is not None and not settings.has_store:
        jobs.append(Job("teacher", options, tuple(arguments)))
    if not sparsities:
        return [*jobs, Job("train", options, tuple(arguments))]
    if chosen := [argument for argument in arguments if argument.startswith("pruning.sparsity=")]:
        raise UserError(
            f"--array: the override {chosen[-1]!r}: each job has a sparsity of the array: leave one of them out"
        )
    others = (argument for argument in arguments if not argument.startswith("name="))
    array = f"--array={','.join(map(str, sparsities))}"
    # The script adds the sparsity to the name.
    return [*jobs, Job("train", (*options, array), (*others, f"name='{recipe.name}'"))]


def parse_sparsities(text: str) -> list[int]:
    """Return the sparsities of an array in thousandths, which are the numbers of its jobs.

    Raises:
        UserError: one is not a fraction between 0 and 1 with at most three decimals.

    Examples:
        >>> parse_sparsities("0.5,0.975")
        [500, 975]
    """
    return list(dict.fromkeys(_thousandths(part) for part in text.split(",")))


def _thousandths(text: str) -> int:
    try:
        thousandths = 1000 * float(text)
    except ValueError:
        thousandths = math.nan
    if not (0 < thousandths < 1000 and math.isclose(thousandths, round(thousandths))):
        raise UserError(
            f"--array: value {text!r}: sparsities are fractions with three decimals at most, as in 0.5,0.975"
        )
    return round(thousandths)


def submit(
    recipe: str,
    overrides: Sequence[str],
    request: Request,
    array: str | None,
    console: Console,
    *,
    dry_run: bool = False,
) -> None:
    """Submit the jobs of a recipe, and print their numbers.

    The arguments are the options of `dsprune submit`.

    Raises:
        UserError: the recipe is invalid, or see `submit_jobs`.
    """
    sparsities = [] if array is None else parse_sparsities(array)
    jobs = plan_jobs(load_recipe(recipe, overrides), [recipe, *overrides], request, sparsities)
    for thousandths in sparsities:  # a recipe can be valid for one sparsity and invalid for another
        load_recipe(recipe, [*overrides, f"pruning.sparsity={thousandths / 1000}"])
    submit_jobs(jobs, console, dry_run=dry_run)


def submit_jobs(jobs: Sequence[Job], console: Console, *, dry_run: bool) -> None:
    """Submit all jobs or none, each to run after the one before it, and print their numbers.

    A dry run only prints the commands, and needs no Slurm.

    Raises:
        UserError: Slurm or the batch scripts are missing, or sbatch refuses a job.
    """
    if not scripts_folder().is_dir():
        raise UserError(f"DSPRUNE_SLURM: {scripts_folder()}: no such folder: name that of the batch scripts")
    for script in {f"{job.what}.sbatch" for job in jobs}:
        if not (scripts_folder() / script).is_file():
            raise UserError(
                f"DSPRUNE_SLURM: {scripts_folder()}: has no {script}: `dsprune slurm-scripts` writes all"
            )
    if not dry_run and shutil.which("sbatch") is None:
        raise UserError(
            "sbatch: not on PATH: submit on a login node of a Slurm cluster, load its slurm module, or print the "
            "commands with --dry-run"
        )
    if dry_run and not _is_cluster():
        # To the error output, because the output has only the commands.
        print("not checked by Slurm: no cluster answers here", file=sys.stderr)
    else:
        for job in jobs:
            _sbatch(["sbatch", "--test-only", *job.command(after=None)[1:]])
    if dry_run:
        for place, job in enumerate(jobs):
            say(console, shlex.join(job.command(after="JOBID" if place else None)))
        return
    Path("logs").mkdir(exist_ok=True)
    submitted = _submit_all(jobs)
    for job, number in zip(jobs, submitted, strict=True):
        say(console, f"{job.what}: job {number}")
    say(console, f"to watch: squeue --jobs={','.join(submitted)}")


def _is_cluster() -> bool:
    """Return whether a Slurm cluster answers."""
    if shutil.which("sinfo") is None or shutil.which("sbatch") is None:
        return False
    return subprocess.run(["sinfo", "--noheader"], capture_output=True, check=False).returncode == 0


def _submit_all(jobs: Sequence[Job]) -> list[str]:
    """Return the numbers of the jobs; if one is refused, cancel those before it."""
    submitted: list[str] = []
    for job in jobs:
        try:
            submitted.append(_sbatch(job.command(after=submitted[-1] if submitted else None)))
        except UserError:
            if submitted:
                subprocess.run(["scancel", *submitted], check=False)
            raise
    return submitted


def _sbatch(command: Sequence[str]) -> str:
    """Run sbatch; return the number of the job.

    Raises:
        UserError: sbatch fails; the message has its answer.
    """
    # A job finds this Python first, even if its environment was not activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"DSPRUNE_SLURM": str(scripts_folder().resolve()), "PATH": path}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    # The name of the cluster follows the number, if there are several.
    number = done.stdout.strip().partition(";")[0]
    if done.returncode != 0 or not (number.isdecimal() or "--test-only" in command):
        lines = [line.removeprefix("sbatch: error: ") for line in (done.stderr or done.stdout).splitlines()]
        answer = "; ".join(lines) or f"exit code {done.returncode}, and no job number"
        way_out = (
            f"change what is requested in: {shlex.join(command)} (sinfo lists what the cluster has)"
            if _is_cluster()
            else "load the site's slurm module, repair its slurm.conf, or print the commands with --dry-run"
        )
        raise UserError(f"sbatch: {answer}: {way_out}")
    return number
