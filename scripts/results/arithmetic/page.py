"""Write docs/arithmetic.md: `python scripts/results/arithmetic/page.py [runs/arithmetic]`.

The results of the runs below the folder are added to runs.csv beside this script. The page is written from that file,
so runs of several machines can be collected without their folders. Every number, and every sentence that depends on
one, is computed. The template page.md holds the description of the experiments only.
"""

import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsprune.report.markdown import markdown_table, mean_cell, write_markdown
from dsprune.report.records import add_records
from dsprune.report.runs import Run, find_folders, read_run

HERE = Path(__file__).parent
DOCS = Path("docs")
TASKS = {"mawps": "MAWPS, fold 0", "svamp": "SVAMP", "asdiv-a": "ASDiv-A, fold 0"}
DENSE, OURS, THEIRS = "dense", "defaults", "SMC-Bench"
TARGETS = (DENSE, "50 %", "80 %", "90 %")
SEEDS = {"80 %": 3}
"""Seeds of a cell by target, where it is not one."""

STARTS = {"pretrained": "", "fine-tuned": ", fine-tuned"}
"""What follows the name of a method that begins with such a model."""


@dataclass(frozen=True, order=True)
class Record:
    """The result of one run.

    Attributes:
        task: name of the task.
        method: name of the method in suite.yaml, or `dense`.
        target: target sparsity, or `dense`.
        setting: device and precision.
        seed: of the run.
        steps: length of the run.
        questions: number of validation examples.
        zeros: fraction of all weights that are zero, in per cent.
        score: accuracy of the equation's value in per cent.
    """

    task: str
    method: str
    target: str
    setting: str
    seed: str
    steps: str
    questions: str
    zeros: str
    score: str

    @property
    def key(self) -> tuple[str, ...]:
        """What names the run."""
        return (self.task, self.method, self.target, self.setting, self.seed)


def record_of(run: Run, task: str) -> Record:
    """Return the result of a finished run."""
    pruning = run.recipe.pruning
    assert run.summary is not None, run.path
    return Record(
        task,
        str(run.recipe.tracking.group) if pruning else DENSE,
        f"{100 * pruning.sparsity:g} %" if pruning else DENSE,
        f"{(run.start.device or 'unknown device').partition(':')[0]}, {run.recipe.precision}",
        str(run.recipe.seed),
        str(run.last_step),
        str(run.summary.validation_examples),
        f"{100 * run.sparsity('model'):.1f}" if pruning else "0.0",
        f"{100 * (run.score or 0.0):.2f}",
    )


def collect(home: Path) -> Iterator[Record]:
    """Yield the results of the finished runs below a folder."""
    for task in TASKS:
        runs = map(read_run, find_folders(sorted(home.glob(task)), "recipe.yaml"))
        yield from (record_of(run, task) for run in runs if run.score is not None)


def chosen(records: Sequence[Record], method: str, target: str) -> list[Record]:
    """Return the results of a method at a target."""
    return [one for one in records if (one.method, one.target) == (method, target)]


def table(records: Sequence[Record]) -> str:
    """Return a table with a row for each start, method and setting, and a column for each target."""
    lines = [["start", "method", "setting", "steps", *TARGETS]]
    rows = [("pretrained", DENSE, DENSE)]
    rows += [(start, name, f"{name}{end}") for start, end in STARTS.items() for name in (OURS, THEIRS)]
    for start, name, method in rows:
        for setting in sorted({one.setting for one in records if one.method == method}):
            found = [one for one in records if (one.method, one.setting) == (method, setting)]
            steps = "/".join(sorted({one.steps for one in found}, key=int))
            cells = [mean_cell(_scores(chosen(found, method, target))) for target in TARGETS]
            lines.append([start, name, setting, steps, *cells])
    return markdown_table(*lines)


def compared(records: Sequence[Record]) -> Iterator[str]:
    """Yield the results of both methods, and their zeros, at each start and target where both were run.

    A fine-tuned run is compared with the dense run that it starts from, a pretrained one by its accuracy.
    """
    dense = {(one.setting, one.seed): float(one.score) for one in chosen(records, DENSE, DENSE)}
    for start, end in STARTS.items():
        base = {} if start == "pretrained" else dense
        said = "" if start == "pretrained" else "compared with the dense runs that they start from, "
        for target in TARGETS[1:]:
            ours, theirs = (chosen(records, f"{name}{end}", target) for name in (OURS, THEIRS))
            if ours and theirs:
                ahead = _above(ours, base) - _above(theirs, base)
                yield (
                    f"{start}, {target}: {said}the defaults have {_described(ours, base)}, and SMC-Bench "
                    f"{_described(theirs, base)}: the defaults are {abs(ahead):.1f} points "
                    f"{'**behind**' if ahead < 0 else 'ahead'}."
                )


def _above(records: Sequence[Record], base: Mapping[tuple[str, str], float]) -> float:
    """Return the mean accuracy of some runs, above that of the base of their setting and seed if there is one."""
    return statistics.fmean(float(one.score) - base.get((one.setting, one.seed), 0.0) for one in records)


def _described(records: Sequence[Record], base: Mapping[tuple[str, str], float]) -> str:
    """Return the result of some runs, their zeros and their settings."""
    settings = " and ".join(sorted({one.setting for one in records}))
    zeros = statistics.fmean(float(one.zeros) for one in records)
    result = f"{_above(records, base):{'+' if base else ''}.1f}"
    return f"{result} with {zeros:.0f} % of all weights zero ({settings})"


def _scores(records: Sequence[Record]) -> list[float]:
    return [float(one.score) for one in records]


def missing(records: Sequence[Record]) -> Iterator[str]:
    """Yield which cells of the study have no run, or too few seeds, for each task."""
    methods = [f"{name}{end}" for end in STARTS.values() for name in (OURS, THEIRS)]
    for task, title in TASKS.items():
        known = [one for one in records if one.task == task]
        for target in TARGETS[1:]:
            lacking = {
                method: SEEDS.get(target, 1) - len({one.seed for one in chosen(known, method, target)})
                for method in methods
            }
            if cells := [f"{method} ({count})" for method, count in lacking.items() if count > 0]:
                yield f"{title}, {target}: {'; '.join(cells)}"


def questions(records: Sequence[Record]) -> str:
    """Return the number of questions that a task is scored on."""
    return " or ".join(sorted({one.questions for one in records}))


def main(home: Path, file: Path = HERE / "runs.csv") -> None:
    """Add the runs of a folder to the file, and write the page from it."""
    records = add_records(file, Record, collect(home))
    studies = {
        title: found
        for task, title in TASKS.items()
        if (found := [one for one in records if one.task == task])
    }
    write_markdown(
        HERE / "page.md",
        DOCS / "arithmetic.md",
        studies=studies,
        missing=list(missing(records)),
        runs=len(records),
        **{function.__name__: function for function in (table, compared, questions)},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/arithmetic"))
