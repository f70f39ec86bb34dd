"""Write docs/results.md and its picture from run folders: `python scripts/results/recovery/page.py [runs/recovery]`.

Every number, and every sentence that depends on one, is computed from the runs and their accuracy on the test split.
The template page.md holds the description of the experiments and of the law only.
"""

import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from dsprune.report.drawing import save_figure
from dsprune.report.runs import Run, find_folders, origin_of, read_run
from dsprune.utils.files import replace_text
from dsprune.utils.text import MISSING

HERE = Path(__file__).parent
DOCS = Path("docs")
TASKS = {
    "banking77": "Questions to a bank, 77 intents",
    "movie-reviews": "Movie reviews, positive or negative",
    "mawps": "Equations of arithmetic word problems",
}
METRICS = {"mawps": "value_accuracy"}
"""What a task is scored by, where it is not `accuracy`."""

STARTS = ("fine-tuned", "pretrained")
OURS, MAGNITUDE, DENSE = "defaults", "magnitude", "dense"
COLOURS = {0.5: "#7c3aed", 0.8: "#16a34a", 0.9: "#c2410c", 0.97: "#2563eb"}
TEST = "test.json"
GOALS = {0.8: 1.0, 0.9: 2.0, 0.97: 4.0}
"""Points below dense that are allowed after more than an epoch, by target."""
GOAL_OF_AN_EPOCH = 3.0
"""Points below dense that are allowed at 90 % after one epoch."""

UNKNOWN_SPREAD = 1.0
"""Points that seeds are taken to differ by where no method was run with several."""


@dataclass(frozen=True)
class Arm:
    """The runs of one method at one budget and target.

    Attributes:
        epochs: length of the runs.
        method: name of the method.
        target: target sparsity; 0 = dense.
        scores: accuracy on the test split in per cent, by seed.
        validation: the same on the validation split.
    """

    epochs: float
    method: str
    target: float
    scores: Mapping[int, float]
    validation: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Mean accuracy on the test split."""
        return statistics.fmean(self.scores.values())

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None for one seed."""
        return statistics.stdev(self.scores.values()) if len(self.scores) > 1 else None


class Study:
    """The runs of a task from one start.

    Args:
        home: folder of all runs.
        task: name of the task.
        start: `fine-tuned` or `pretrained`.
    """

    def __init__(self, home: Path, task: str, start: str) -> None:
        self.task, self.start = task, start
        paths = find_folders(sorted(home.glob(f"{task}/{start}-*")), "recipe.yaml")
        self.runs = [read_run(path) for path in paths if (path / TEST).is_file()]
        self.arms = list(_arms(self.runs, task))

    @property
    def targets(self) -> list[float]:
        """Targets of the runs, ascending; 0 = dense."""
        return sorted({arm.target for arm in self.arms})

    @property
    def budgets(self) -> list[float]:
        """Budgets of the runs in epochs, ascending."""
        return sorted({arm.epochs for arm in self.arms})

    def at(self, epochs: float, method: str, target: float) -> Arm | None:
        """Return the runs of a method at a budget and a target; None = there are none."""
        wanted = (epochs, method, target)
        return next((arm for arm in self.arms if (arm.epochs, arm.method, arm.target) == wanted), None)


def _arms(runs: Sequence[Run], task: str) -> Iterator[Arm]:
    groups: dict[tuple[float, str, float], list[Run]] = {}
    for run in runs:
        epochs = float(run.path.parent.name.rpartition("-")[2])
        target = 0.0 if run.recipe.pruning is None else run.recipe.pruning.sparsity
        groups.setdefault((epochs, str(run.recipe.tracking.group), target), []).append(run)
    for key, members in sorted(groups.items()):
        scores = {run.recipe.seed: tested(run.path, task) for run in members}
        yield Arm(*key, scores, {run.recipe.seed: 100 * (run.score or 0.0) for run in members})


def tested(run: Path, task: str) -> float:
    """Return the accuracy of a run's model on the test split of a task, in per cent."""
    metrics = json.loads((run / TEST).read_text(encoding="utf-8"))
    return 100 * float(metrics[METRICS.get(task, "accuracy")])


def shown(arm: Arm | None) -> str:
    """Return mean, standard deviation and number of seeds as a cell."""
    if arm is None:
        return MISSING
    spread = "" if arm.spread is None else f" ± {arm.spread:.1f} ({len(arm.scores)})"
    return f"{arm.mean:.1f}{spread}"


def table(study: Study) -> str:
    """Return a table with a row for each budget and method, and a column for each target."""
    heads = ["dense" if not target else f"{100 * target:g} %" for target in study.targets]
    lines = [["epochs", "method", *heads], ["---"] * (2 + len(heads))]
    for epochs in study.budgets:
        for method in dict.fromkeys(
            arm.method for arm in sorted(study.arms, key=_order) if arm.epochs == epochs
        ):
            cells = [shown(study.at(epochs, method, target)) for target in study.targets]
            lines.append([f"{epochs:g}", method, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _order(arm: Arm) -> tuple[int, str]:
    first = (DENSE, OURS, MAGNITUDE)
    return (first.index(arm.method) if arm.method in first else len(first), arm.method)


def goals(study: Study, home: Path) -> Iterator[str]:
    """Yield how far the defaults are below dense, at the same budget or else its start, beside what was aimed at."""
    aims = [(1.0, 0.9, GOAL_OF_AN_EPOCH)]
    aims += [(epochs, *aim) for epochs in study.budgets if epochs > 1 for aim in GOALS.items()]
    for epochs, target, goal in aims:
        ours, dense = study.at(epochs, OURS, target), study.at(epochs, DENSE, 0.0)
        start = home / "starts" / study.task
        if ours is not None and (dense is not None or (start / TEST).is_file()):
            below = (tested(start, study.task) if dense is None else dense.mean) - ours.mean
            what = "the dense start" if dense is None else "dense at the same budget"
            verdict = "reached" if below <= goal else "missed"
            yield (
                f"{_cell(target, epochs)}: {below:.2f} points below {what}; the goal of {goal:g} is "
                f"{verdict}."
            )


def plain_arms(study: Study) -> Iterator[str]:
    """Yield by how much the defaults differ from each other method, and whether that is more than the seeds do."""
    known = [arm.spread for arm in study.arms if arm.spread is not None]
    spread = max(known, default=UNKNOWN_SPREAD)
    for ours in (arm for arm in study.arms if arm.method == OURS):
        for other in study.arms:
            if (other.epochs, other.target) != (ours.epochs, ours.target) or other.method == OURS:
                continue
            seeds = sorted(set(ours.scores) & set(other.scores))
            if ours.target and seeds:
                ahead = statistics.fmean(ours.scores[seed] - other.scores[seed] for seed in seeds)
                behind = ahead < -spread
                yield (
                    f"{_cell(ours.target, ours.epochs)}, {other.method}: {ahead:+.1f}"
                    f"{' **behind**' if behind else ''}"
                )


def _cell(target: float, epochs: float) -> str:
    return f"{100 * target:g} % after {epochs:g} epoch{'' if epochs == 1 else 's'}"


def draw(studies: Sequence[Study], path: Path) -> None:
    """Draw accuracy against budget at each target: a panel for each task."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, study in zip(figure.subplots(1, len(studies), squeeze=False)[0], studies, strict=True):
        lines = [(DENSE, 0.0, "#6b7280", "-")]
        for target in (target for target in study.targets if target):
            lines += [(OURS, target, COLOURS[target], "-"), (MAGNITUDE, target, COLOURS[target], "--")]
        for method, target, colour, style in lines:
            arms = [arm for epochs in study.budgets if (arm := study.at(epochs, method, target)) is not None]
            label = method if not target else f"{method}, {100 * target:g} %"
            errors = [arm.spread or 0.0 for arm in arms]
            x, y = [arm.epochs for arm in arms], [arm.mean for arm in arms]
            if arms:
                axes.errorbar(x, y, errors, color=colour, ls=style, marker="o", ms=4, capsize=3, label=label)
        axes.set_xscale("log")
        budgets = sorted({arm.epochs for arm in study.arms if arm.method in (DENSE, OURS, MAGNITUDE)})
        axes.set_xticks(budgets, [f"{epochs:g}" for epochs in budgets])
        axes.minorticks_off()
        axes.set_title(TASKS[study.task], fontsize=9)
        axes.set_xlabel("epochs")
        axes.set_ylabel("accuracy on the test part, %")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=7)
    save_figure(figure, path)


def start_of(home: Path, task: str) -> str:
    """Return the accuracy of the fine-tuned start on the test split."""
    folder = home / "starts" / task
    return f"{tested(folder, task):.1f}" if (folder / TEST).is_file() else MISSING


def main(home: Path) -> None:
    """Read the runs, draw the picture, and write the page."""
    environment = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    )
    studies = [study for task in TASKS for start in STARTS if (study := Study(home, task, start)).arms]
    drawn = [study for study in studies if study.start == STARTS[0] and len(study.budgets) > 1]
    draw(drawn or studies, DOCS / "results.svg")
    functions = {function.__name__: function for function in (table, goals, plain_arms)}
    page = environment.get_template("page.md").render(
        functions,
        studies=studies,
        home=home,
        titles=TASKS,
        starts={task: start_of(home, task) for task in TASKS},
        origin=origin_of([run for study in studies for run in study.runs]),
    )
    replace_text(DOCS / "results.md", page)
    print(f"written: {DOCS / 'results.md'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/recovery"))
