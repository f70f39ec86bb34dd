"""Write docs/results.md and its picture: `python scripts/results/recovery/page.py [runs/recovery]`.

The results of the runs below the folder are added to runs.csv beside this script. The page is written from that file,
so runs of several machines can be collected without their folders. Every number, and every sentence that depends on
one, is computed. The template page.md holds the description of the experiments and of the law only.
"""

import itertools
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dsprune.report.drawing import save_figure
from dsprune.report.markdown import markdown_table, write_markdown
from dsprune.report.records import add_records
from dsprune.report.runs import Run, find_folders, read_run
from dsprune.utils.text import MISSING

HERE = Path(__file__).parent
DOCS = Path("docs")
TASKS = {
    "banking77": "Questions to a bank, 77 intents",
    "movie-reviews": "Movie reviews, positive or negative",
    "mawps": "Equations of arithmetic word problems",
    "clinc150": "Questions to an assistant, 150 intents",
    "trec": "Types of a question, 6 classes",
    "xquad": "Answers in a paragraph, F1",
}
METRICS = {"mawps": "value_accuracy", "xquad": "f1"}
"""What a task is scored by, where it is not `accuracy`."""

STARTS = ("fine-tuned", "pretrained")
OURS, MAGNITUDE, DENSE, START = "defaults", "magnitude", "dense", "start"
COLOURS = {"50 %": "#7c3aed", "80 %": "#16a34a", "90 %": "#c2410c", "97 %": "#2563eb"}
TEST = "test.json"
GOALS = {"80 %": 1.0, "90 %": 2.0, "97 %": 4.0}
"""Points below dense that are allowed after more than an epoch, by target."""
GOAL_OF_AN_EPOCH = 3.0
"""Points below dense that are allowed at 90 % after one epoch."""

UNKNOWN_SPREAD = 1.0
"""Points that seeds are taken to differ by where no method was run with several."""


@dataclass(frozen=True, order=True)
class Record:
    """The result of one run, or of several runs that were not kept one by one.

    Attributes:
        task: name of the task.
        start: `fine-tuned` or `pretrained`.
        epochs: length of the run; 0 = the start itself.
        method: name of the method in suite.yaml.
        target: target sparsity, or `dense`.
        setting: device and precision.
        seed: of the run; empty for several runs.
        runs: number of runs.
        test: accuracy on the test split in per cent, the mean of the runs.
        deviation: standard deviation of several runs; else empty.
    """

    task: str
    start: str
    epochs: str
    method: str
    target: str
    setting: str
    seed: str
    runs: str
    test: str
    deviation: str

    @property
    def key(self) -> tuple[str, ...]:
        """What names the run."""
        return (self.task, self.start, self.epochs, self.method, self.target, self.setting, self.seed)


@dataclass(frozen=True)
class Arm:
    """The runs of one method at one budget, target and setting. The fields are those of its records."""

    epochs: float
    method: str
    target: str
    setting: str
    records: Sequence[Record]

    @property
    def runs(self) -> int:
        """Number of runs."""
        return sum(int(record.runs) for record in self.records)

    @property
    def mean(self) -> float:
        """Mean accuracy on the test split."""
        return sum(int(record.runs) * float(record.test) for record in self.records) / self.runs

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None for one seed."""
        if self.runs == 1:
            return None
        within = sum((int(one.runs) - 1) * float(one.deviation or 0.0) ** 2 for one in self.records)
        between = sum(int(one.runs) * (float(one.test) - self.mean) ** 2 for one in self.records)
        return math.sqrt((within + between) / (self.runs - 1))


class Study:
    """The runs of a task from one start.

    Args:
        records: all results.
        task: name of the task.
        start: `fine-tuned` or `pretrained`.
    """

    def __init__(self, records: Iterable[Record], task: str, start: str) -> None:
        self.task, self.start = task, start
        groups: dict[tuple[str, str, str, str], list[Record]] = {}
        for one in records:
            if (one.task, one.start) == (task, start) and one.method != START:
                groups.setdefault((one.epochs, one.method, one.target, one.setting), []).append(one)
        self.arms = [
            Arm(float(epochs), method, target, setting, found)
            for (epochs, method, target, setting), found in groups.items()
        ]
        self.dense_starts = {
            one.setting: float(one.test) for one in records if (one.task, one.method) == (task, START)
        }

    @property
    def targets(self) -> list[str]:
        """Targets of the runs, dense first, then ascending."""
        return sorted({arm.target for arm in self.arms}, key=lambda target: (target != DENSE, target))

    @property
    def budgets(self) -> list[float]:
        """Budgets of the runs in epochs, ascending."""
        return sorted({arm.epochs for arm in self.arms})

    @property
    def settings(self) -> list[str]:
        """Settings of the runs, in order."""
        return sorted({arm.setting for arm in self.arms})

    def at(self, epochs: float, method: str, target: str, setting: str) -> Arm | None:
        """Return the runs of a method at a budget, a target and a setting; None = there are none."""
        wanted = (epochs, method, target, setting)
        return next(
            (one for one in self.arms if (one.epochs, one.method, one.target, one.setting) == wanted), None
        )


def collect(home: Path) -> Iterator[Record]:
    """Yield the results of the runs below a folder that test_models.py has evaluated."""
    for task in TASKS:
        for path in find_folders(sorted(home.glob(f"{task}/*-*")), "recipe.yaml"):
            start, _, epochs = path.parent.name.rpartition("-")
            if start in STARTS and (path / TEST).is_file():
                run = read_run(path)
                yield _record_of(run, task, start, epochs, str(run.recipe.tracking.group))
        folder = home / "starts" / task
        if (folder / TEST).is_file():
            yield _record_of(read_run(folder), task, STARTS[0], "0", START)


def _record_of(run: Run, task: str, start: str, epochs: str, method: str) -> Record:
    target = DENSE if run.recipe.pruning is None else f"{100 * run.recipe.pruning.sparsity:g} %"
    device = (run.start.device or "unknown device").partition(":")[0]
    setting = f"{device}, {run.recipe.precision}"
    score = f"{tested(run.path, task):.2f}"
    return Record(task, start, epochs, method, target, setting, str(run.recipe.seed), "1", score, "")


def tested(run: Path, task: str) -> float:
    """Return the accuracy of a run's model on the test split of a task, in per cent."""
    metrics = json.loads((run / TEST).read_text(encoding="utf-8"))
    return 100 * float(metrics[METRICS.get(task, "accuracy")])


def shown(arm: Arm | None) -> str:
    """Return mean, standard deviation and number of seeds as a cell."""
    if arm is None:
        return MISSING
    spread = "" if arm.spread is None else f" ± {arm.spread:.1f} ({arm.runs})"
    return f"{arm.mean:.1f}{spread}"


def table(study: Study) -> str:
    """Return a table with a row for each budget, method and setting, and a column for each target."""
    lines = [["epochs", "method", "setting", *study.targets]]
    rows = sorted({(arm.epochs, _order(arm.method), arm.method, arm.setting) for arm in study.arms})
    for epochs, _, method, setting in rows:
        cells = [shown(study.at(epochs, method, target, setting)) for target in study.targets]
        lines.append([f"{epochs:g}", method, setting, *cells])
    return markdown_table(*lines)


def _order(method: str) -> int:
    first = (DENSE, OURS, MAGNITUDE)
    return first.index(method) if method in first else len(first)


def goals(study: Study) -> Iterator[str]:
    """Yield the distance of the defaults from dense at the same budget, or from the fine-tuned model, and the goals."""
    aims = [(1.0, "90 %", GOAL_OF_AN_EPOCH)]
    aims += [(epochs, *aim) for epochs in study.budgets if epochs > 1 for aim in GOALS.items()]
    for (epochs, target, goal), setting in itertools.product(aims, study.settings):
        ours, dense = study.at(epochs, OURS, target, setting), study.at(epochs, DENSE, DENSE, setting)
        fine_tuned = study.dense_starts.get(setting)
        reference = fine_tuned if dense is None else dense.mean
        if ours is not None and reference is not None:
            what = "the fine-tuned model" if dense is None else "dense at the same budget"
            verdict = "reached" if reference - ours.mean <= goal else "missed"
            yield f"{_cell(ours)}: {_apart(ours.mean, reference)} {what}; the goal of {goal:g} is {verdict}."
            if dense is not None and fine_tuned is not None and study.start == "pretrained":
                yield f"{_cell(ours)}: {_apart(ours.mean, fine_tuned)} the fine-tuned model."


def _apart(ours: float, reference: float) -> str:
    return f"{abs(ours - reference):.2f} points {'above' if ours > reference else 'below'}"


def leads(study: Study) -> Iterator[str]:
    """Yield by how much the defaults differ from the other methods, and whether that is more than the seeds do."""
    spread = max((arm.spread for arm in study.arms if arm.spread is not None), default=UNKNOWN_SPREAD)
    for ours in sorted((arm for arm in study.arms if arm.method == OURS), key=_cell):
        others = []
        for other in sorted(study.arms, key=lambda arm: arm.method):
            if other.method != OURS and _cell(other) == _cell(ours):
                ahead = ours.mean - other.mean
                others.append(f"{other.method} {ahead:+.1f}{' **behind**' if ahead < -spread else ''}")
        if others:
            yield f"{_cell(ours)}: {', '.join(others)}."


def _cell(arm: Arm) -> str:
    return f"{arm.target} after {arm.epochs:g} epoch{'' if arm.epochs == 1 else 's'} ({arm.setting})"


def draw(studies: Sequence[Study], path: Path) -> None:
    """Draw accuracy against budget at each target: a panel for each task, in the setting of most runs."""
    rows = math.ceil(len(studies) / 2)
    figure = Figure(figsize=(8.0, 2.8 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, min(2, len(studies)), squeeze=False).flat
    known: dict[str, Any] = {}
    for axes, study in itertools.zip_longest(panels, studies):
        if study is None:
            axes.set_axis_off()
        else:
            _draw_study(axes, study)
            known |= {label: line for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    labels = sorted(known, key=lambda label: (label != DENSE, label))
    handles = [known[label] for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, handlelength=3.5)
    save_figure(figure, path)


def _draw_study(axes: Axes, study: Study) -> None:
    setting = max(study.settings, key=lambda one: sum(arm.runs for arm in study.arms if arm.setting == one))
    lines = [(DENSE, DENSE, "#6b7280", "-")]
    for target in (target for target in study.targets if target != DENSE):
        lines += [(OURS, target, COLOURS[target], "-"), (MAGNITUDE, target, COLOURS[target], "--")]
    drawn = set()
    for method, target, colour, style in lines:
        arms = [arm for epochs in study.budgets if (arm := study.at(epochs, method, target, setting))]
        label = method if method == target else f"{method}, {target}"
        errors = [arm.spread or 0.0 for arm in arms]
        x, y = [arm.epochs for arm in arms], [arm.mean for arm in arms]
        drawn |= set(x)
        if arms:
            axes.errorbar(x, y, errors, color=colour, ls=style, marker="o", ms=4, capsize=3, label=label)
    axes.set_xscale("log")
    axes.set_xticks(sorted(drawn), [f"{epochs:g}" for epochs in sorted(drawn)])
    axes.minorticks_off()
    axes.set_title(TASKS[study.task], fontsize=9)
    axes.set_xlabel("epochs")
    axes.set_ylabel(
        "F1 on the test split" if METRICS.get(study.task) == "f1" else "accuracy on the test split, %"
    )
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def main(home: Path, path: Path = HERE / "runs.csv") -> None:
    """Add the results of run folders to the csv file, draw the picture, and write the page from the file."""
    records = add_records(path, Record, collect(home))
    studies = [study for task in TASKS for start in STARTS if (study := Study(records, task, start)).arms]
    drawn = [study for study in studies if study.start == STARTS[0] and len(study.budgets) > 1]
    draw(drawn or studies, DOCS / "results.svg")
    functions = {function.__name__: function for function in (table, goals, leads)}
    runs = sum(int(one.runs) for one in records)
    write_markdown(
        HERE / "page.md", DOCS / "results.md", studies=studies, titles=TASKS, runs=runs, **functions
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/recovery"))
