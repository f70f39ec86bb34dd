"""A suite as Slurm arrays: a job a part, on one node each, all that wait for nothing at the same time."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dsprune.programs.submit.cluster import Request
from dsprune.programs.submit.jobs import Job, common_options
from dsprune.programs.submit.submit import hand_in
from dsprune.programs.suite.suite import Choice, parts_of

__all__ = ["submit_suite"]


def submit_suite(
    choice: Choice, request: Request, options: Sequence[str], dry_run: bool, console: Console
) -> None:
    """Submit an array for teachers and their stores where there are any, and one for all that needs them.

    Args:
        choice: what of the suite.
        request: what each job asks for.
        options: for sbatch, as typed.
        dry_run: check and print, submit nothing.
        console: where the numbers go.

    Raises:
        UserError: the suite is wrong, the cluster cannot give what is asked for, or it refuses a job.
    """
    first, then = map(len, parts_of(choice))
    common = common_options(Path(choice.name).stem, request, options)
    spans = [(0, first), (first, first + then)]
    jobs = [
        Job("suite", (*common, f"--array={start}-{stop - 1}"), tuple(choice.words()))
        for start, stop in spans
        if stop > start
    ]
    hand_in(jobs, request, console, dry_run=dry_run)
    console.print(f"when they are done: dsprune report {choice.home}", markup=False, highlight=False)
