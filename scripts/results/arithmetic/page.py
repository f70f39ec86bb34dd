"""Write docs/arithmetic.md from run folders: `python scripts/results/arithmetic/page.py [runs/arithmetic]`.

Every number, and every sentence that depends on one, is computed from the runs. The template page.md holds the
description of the experiments only.
"""

import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from dsprune.report.markdown import markdown_table, mean_cell, write_markdown
from dsprune.report.runs import Run, find_folders, origin_of, read_run
from dsprune.utils.text import MISSING

HERE = Path(__file__).parent
DOCS = Path("docs")
TASKS = {"mawps": "MAWPS, fold 0", "svamp": "SVAMP", "asdiv-a": "ASDiv-A, fold 0"}
TARGETS = (0.5, 0.8, 0.9)
OURS, THEIRS, DENSE = "defaults", "SMC-Bench", "teacher"
STARTS = {"pretrained": "", "fine-tuned": ", fine-tuned"}
"""What follows the name of a method that begins with such a model."""


def finished(home: Path, task: str) -> list[Run]:
    """Return the finished runs of a task."""
    runs = (
        [read_run(path) for path in find_folders([home / task], "recipe.yaml")]
        if (home / task).is_dir()
        else []
    )
    return [run for run in runs if run.score is not None]


def chosen(runs: Sequence[Run], method: str, target: float) -> list[Run]:
    """Return the runs of a method at a target; 0 = dense."""
    return [
        run
        for run in runs
        if run.recipe.tracking.group == method
        and (run.recipe.pruning.sparsity if run.recipe.pruning else 0.0) == target
    ]


def shown(runs: Sequence[Run]) -> str:
    """Return the accuracy of some runs, with the standard deviation and the number of seeds where there are several."""
    return mean_cell([100 * (run.score or 0.0) for run in runs])


def table(runs: Sequence[Run]) -> str:
    """Return a table with a row for each start and method, and a column for each target."""
    lines = [["start", "method", "steps", *(f"{100 * target:g} %" for target in TARGETS)]]
    for start, suffix in STARTS.items():
        for method in (OURS, THEIRS):
            cells = [chosen(runs, f"{method}{suffix}", target) for target in TARGETS]
            if any(cells):
                steps = {run.last_step for cell in cells for run in cell}
                lines.append([start, method, "/".join(map(str, sorted(steps))), *map(shown, cells)])
    return markdown_table(*lines)


def dense(runs: Sequence[Run]) -> str:
    """Return the accuracy of the dense runs, and their steps and questions."""
    found = chosen(runs, DENSE, 0.0)
    steps = "/".join(str(run.last_step) for run in found[:1])
    questions = "/".join(str(run.summary.validation_examples) for run in found[:1] if run.summary)
    return f"{shown(found)} ({steps or MISSING} steps, {questions or MISSING} questions)"


def compared(runs: Sequence[Run]) -> Iterator[str]:
    """Yield how far both methods are from dense, and from each other, at each start and target."""
    known = chosen(runs, DENSE, 0.0)
    for start, suffix in STARTS.items():
        for target in TARGETS:
            ours, theirs = (chosen(runs, f"{method}{suffix}", target) for method in (OURS, THEIRS))
            if known and ours and theirs:
                base, ahead = _mean(known), _mean(ours) - _mean(theirs)
                yield (
                    f"{start}, {100 * target:g} %: compared with dense, the defaults have {_mean(ours) - base:+.1f} "
                    f"points and SMC-Bench {_mean(theirs) - base:+.1f}, with {_zeros(ours)} and {_zeros(theirs)} of "
                    f"all weights zero: the defaults are {abs(ahead):.1f} {'**behind**' if ahead < 0 else 'ahead'}."
                )


def _zeros(runs: Sequence[Run]) -> str:
    return f"{100 * runs[0].sparsity('model'):.0f} %"


def _mean(runs: Sequence[Run]) -> float:
    return statistics.fmean(100 * (run.score or 0.0) for run in runs)


def zeros(runs: Sequence[Run]) -> str:
    """Return which fraction of all weights is zero at each target, for both methods."""
    parts = []
    for method in (OURS, THEIRS):
        found = {
            run.recipe.pruning.sparsity: run.sparsity("model")
            for suffix in STARTS.values()
            for target in TARGETS
            for run in chosen(runs, f"{method}{suffix}", target)
            if run.recipe.pruning
        }
        listed = ", ".join(
            f"{100 * target:g} %: {100 * share:.0f} %" for target, share in sorted(found.items())
        )
        parts.append(f"{method}: {listed or MISSING}")
    return "; ".join(parts)


def missing(home: Path) -> str:
    """Return what of the study has not been run."""
    absent = []
    for task, title in TASKS.items():
        runs = finished(home, task)
        cells = [
            f"{method}{suffix} at {100 * target:g} %"
            for suffix in STARTS.values()
            for target in TARGETS
            for method in (OURS, THEIRS)
            if not chosen(runs, f"{method}{suffix}", target)
        ]
        seeds = {run.recipe.seed for run in runs}
        if not runs:
            absent.append(f"{title}, all of it")
        elif cells:
            absent.append(f"{title}, {'; '.join(cells)}")
        if runs and len(seeds) < 3:
            absent.append(f"{title}, {3 - len(seeds)} of three seeds")
    return "\n".join(f"- {line}." for line in absent) or "- nothing."


def main(home: Path) -> None:
    """Read the runs and write the page."""
    studies = {title: runs for task, title in TASKS.items() if (runs := finished(home, task))}
    functions = {function.__name__: function for function in (table, dense, compared, zeros)}
    write_markdown(
        HERE / "page.md",
        DOCS / "arithmetic.md",
        studies=studies,
        missing=missing(home),
        origin=origin_of([run for runs in studies.values() for run in runs]),
        **functions,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/arithmetic"))
