"""`dsprune submit`: submit a recipe to Slurm, by the batch scripts of slurm/."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dsprune.commands.submit.jobs import Job, Request, parse_sparsities, plan_jobs, scripts_folder
from dsprune.errors import UserError
from dsprune.recipe import load_recipe
from dsprune.utils.console import say

__all__ = ["submit", "submit_jobs"]


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

    Args:
        recipe: a file, or the name of a shipped recipe.
        overrides: `key.sub=value` each.
        request: what each job requests.
        array: sparsities to train one by one, such as `0.5,0.9`; None = the recipe's own.
        console: where the numbers are printed, or the commands of a dry run.
        dry_run: check and print, submit nothing.

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

    A dry run prints the commands only, and needs no Slurm.

    Raises:
        UserError: Slurm or the batch scripts are missing, or sbatch refuses a job.
    """
    if not scripts_folder().is_dir():
        raise UserError(f"DSPRUNE_SLURM: {scripts_folder()}: no such folder: name that of the batch scripts")
    if not dry_run and shutil.which("sbatch") is None:
        raise UserError(
            "sbatch: not on PATH: submit on a login node of a Slurm cluster, load its slurm module, or print the "
            "commands with --dry-run"
        )
    if dry_run and not _is_cluster():
        # To the error output: the commands alone are the output.
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
    """Whether a Slurm cluster answers here."""
    if shutil.which("sinfo") is None or shutil.which("sbatch") is None:
        return False
    return subprocess.run(["sinfo", "--noheader"], capture_output=True, check=False).returncode == 0


def _submit_all(jobs: Sequence[Job]) -> list[str]:
    """Return the jobs' numbers; when one is refused, cancel those before it."""
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
        UserError: sbatch fails; holds its answer.
    """
    # A job finds this Python first, also where its environment was not activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"DSPRUNE_SLURM": str(scripts_folder().resolve()), "PATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        answer = "; ".join(line.removeprefix("sbatch: error: ") for line in done.stderr.splitlines())
        raise UserError(
            f"sbatch: {answer}: change what is requested in: {shlex.join(command)} "
            f"(sinfo lists what the cluster has)"
        )
    return done.stdout.strip().partition(";")[0]  # after it the name of the cluster, where there are several
