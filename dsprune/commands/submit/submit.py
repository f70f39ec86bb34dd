"""`dsprune submit`: hand a recipe to Slurm, as the batch scripts of slurm/."""

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dsprune.commands.submit.cluster import Request, ask_sinfo, check
from dsprune.commands.submit.jobs import SCRIPTS, Job, parse_sparsities, plan_jobs
from dsprune.errors import UserError
from dsprune.recipe import load_recipe
from dsprune.utils.console import say

__all__ = ["hand_in", "submit"]


def submit(
    recipe: str,
    overrides: Sequence[str],
    request: Request,
    array: str | None,
    options: Sequence[str],
    console: Console,
    *,
    dry_run: bool = False,
) -> None:
    """Submit the jobs of a recipe, each to run after the one before, and print their numbers; all or none.

    Args:
        recipe: a file, or the name of a shipped recipe.
        overrides: `key.sub=value` each.
        request: what each job asks for.
        array: sparsities to train one by one, such as `0.5,0.9`; None = the recipe's own.
        options: for sbatch, as they are.
        console: where the numbers go, or the commands of a dry run.
        dry_run: check and print, submit nothing.

    Raises:
        UserError: the recipe is wrong, the cluster cannot give what is asked for, or it refuses a job.
    """
    sparsities = [] if array is None else parse_sparsities(array)
    loaded = load_recipe(recipe, overrides)
    jobs = plan_jobs(loaded, [recipe, *overrides], request, sparsities, options)
    for thousandths in sparsities:  # a recipe can be right for one sparsity and wrong for another
        load_recipe(recipe, [*overrides, f"pruning.sparsity={thousandths / 1000}"])
    hand_in(jobs, request, console, dry_run=dry_run)


def hand_in(jobs: Sequence[Job], request: Request, console: Console, *, dry_run: bool) -> None:
    """Submit jobs of which each waits for the one before, and print their numbers; all or none.

    Raises:
        UserError: the cluster cannot give what is asked for, or it refuses a job.
    """
    check(request, ask_sinfo())
    if not SCRIPTS.is_dir():
        raise UserError(f"{SCRIPTS}: no such folder: name that of the batch scripts in DSPRUNE_SLURM")
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


def _submit_all(jobs: Sequence[Job]) -> list[str]:
    """The jobs' numbers; when one is refused, those before it are cancelled."""
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
    """The number of the job."""
    environment = os.environ | {"DSPRUNE_SLURM": str(SCRIPTS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(
            f"{' '.join(done.stderr.split())}: change what is asked for in: {shlex.join(command)}"
        )
    return done.stdout.strip().partition(";")[0]  # behind it the name of the cluster, where there are several
