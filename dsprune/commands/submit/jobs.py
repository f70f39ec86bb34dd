"""The jobs that a recipe takes: which script of slurm/, with which options, after which other job."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsprune.commands.submit.cluster import Request
from dsprune.distillation.store.format import MANIFEST
from dsprune.errors import UserError
from dsprune.recipe import Recipe

__all__ = ["SCRIPTS", "Job", "common_options", "parse_sparsities", "plan_jobs"]

SCRIPTS = Path(os.environ.get("DSPRUNE_SLURM", Path(__file__).resolve().parents[3] / "slurm"))
"""The batch scripts: those of this repository, or a site's own copy."""


@dataclass(frozen=True)
class Job:
    """A batch script and what it is given.

    Attributes:
        what: `teacher`, `train` or `suite`; the script's name.
        options: for sbatch.
        arguments: for the script.
    """

    what: str
    options: tuple[str, ...]
    arguments: tuple[str, ...]

    def command(self, after: str | None) -> list[str]:
        """The sbatch command; `after` is the number of a job that must have done its work before."""
        waiting = () if after is None else (f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes")
        script = str(SCRIPTS / f"{self.what}.sbatch")
        return ["sbatch", "--parsable", *self.options, *waiting, script, *self.arguments]


def plan_jobs(
    recipe: Recipe,
    arguments: Sequence[str],
    request: Request,
    sparsities: Sequence[int],
    options: Sequence[str],
) -> list[Job]:
    """The jobs of a recipe, in the order in which each waits for the one before.

    Args:
        recipe: decides which jobs there are: a store that is not there yet is made first, by a job of its own.
        arguments: the recipe and its overrides, as typed.
        request: what each job asks for.
        sparsities: one run for each, in thousandths; none = the recipe's own.
        options: for sbatch, as typed.

    Raises:
        UserError: several sparsities of a recipe that does not prune.
    """
    if sparsities and recipe.pruning is None:
        raise UserError(
            f"--array: recipe {recipe.name!r} has no section pruning: add one, or leave --array out"
        )
    common = common_options(recipe.name, request, options)
    settings, jobs = recipe.distillation, []
    if settings is not None and settings.store is not None and not Path(settings.store, MANIFEST).exists():
        jobs.append(Job("teacher", common, tuple(arguments)))
    array = (f"--array={','.join(map(str, sparsities))}",) if sparsities else ()
    return [*jobs, Job("train", (*common, *array), tuple(arguments))]


def common_options(name: str, request: Request, options: Sequence[str]) -> tuple[str, ...]:
    """For sbatch: what a job is called and asks for; options as typed come last, and win."""
    return (
        f"--job-name={name}",
        f"--nodes={request.nodes}",
        *_given("gpus-per-node", request.gpus_per_node),
        *_given("time", request.time),
        *_given("partition", request.partition),
        "--output=logs/%x-%j.log",
        *options,
    )


def parse_sparsities(text: str) -> list[int]:
    """The sparsities of an array, in thousandths, which number its jobs.

    Raises:
        UserError: one is no fraction between 0 and 1 with three decimals at most.

    Examples:
        >>> parse_sparsities("0.5,0.975")
        [500, 975]
    """
    return [_thousandths(part) for part in text.split(",")]


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


def _given(option: str, value: object) -> tuple[str, ...]:
    return () if value is None else (f"--{option}={value}",)
