"""Write docs/results-0.1.md and its pictures from run folders: `python scripts/results/page.py [runs/results]`.

Every number, and every sentence that depends on one, is computed from the summaries of the runs. The template page.md
holds the description of the experiments only.
"""

import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from dsprune.commands.analyze.page_sections import component_table
from dsprune.commands.analyze.result import read_analysis
from dsprune.recipe.timing import log_compression
from dsprune.report.drawing import save_figure
from dsprune.report.grouping import Setting, settings_of
from dsprune.report.markdown import markdown_table, mean_cell, write_markdown
from dsprune.report.runs import Run, find_folders, origin_of, read_run
from dsprune.utils.text import MISSING

HERE = Path(__file__).parent
DOCS = Path("docs")
OURS, SMC, NONE = "all guidelines", "SMC-Bench schedule, same weights", "none"
ROWS = (OURS, SMC, NONE)
ABLATION = 0.9
STUDIES = {
    "sentiment": ("Movie reviews", "Half of the sentences are positive: 50 is chance."),
    "banking77": (
        "Questions to a bank",
        "Each of the 77 intents has 40 of the test's questions: 1.3 is chance.",
    ),
    "banking77-pretrained": (
        "Questions to a bank, from the pretrained model",
        "The model has not learnt the intents yet: it has seen 1 in 12 of the examples at the first jump.",
    ),
}
COLOURS = {OURS: "#c2410c", SMC: "#2563eb", NONE: "#6b7280"}


class Study:
    """The runs of one task, over a grid of methods and sparsities.

    Args:
        folder: folder of the runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = [read_run(path) for path in find_folders([folder], "recipe.yaml")]
        self.settings = [setting for setting in settings_of(self.runs) if setting.scores]

    def at(self, series: str, target: float) -> Setting | None:
        """Return the finished runs of a method at a target; None = there are none."""
        return next((s for s in self.settings if s.series == series and s.target == target), None)

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.folder.name

    @property
    def title(self) -> str:
        """Title of the task."""
        return STUDIES[self.name][0]

    @property
    def remark(self) -> str:
        """What a reader needs to know about its metric."""
        return STUDIES[self.name][1]

    @property
    def dense(self) -> list[Setting]:
        """The runs without pruning."""
        return [setting for setting in self.settings if not setting.target]

    @property
    def targets(self) -> list[float]:
        """Sparsities at which methods are compared."""
        return sorted({setting.target for setting in self.settings if setting.target})

    @property
    def metric(self) -> str:
        """Name of the headline metric."""
        return str(self.settings[0].runs[0].headline)

    @property
    def origin(self) -> str:
        """Seeds and versions."""
        return origin_of(self.runs).partition(" · ")[2]


def shown(setting: Setting | None) -> str:
    """Return mean, standard deviation and number of seeds as a cell; BLEU is in points already."""
    if setting is None:
        return MISSING
    scale = 1 if setting.runs[0].headline == "bleu" else 100
    return mean_cell([scale * score for score in setting.scores])


def levels(study: Study) -> list[list[str]]:
    """Return a table with one row per method and one column per sparsity."""
    rows = [["method", *(f"{100 * target:g} %" for target in study.targets)]]
    for name in ROWS:
        cells = [shown(study.at(name, target)) for target in study.targets]
        if set(cells) != {MISSING}:
            rows.append([name, *cells])
    return rows


def teacher(study: Study) -> str:
    """Return the score of a task's teacher, if its run is beside the study's folder."""
    folder = study.folder.with_name(f"{study.name.partition('-')[0]}-teacher")
    return shown(Setting("teacher", (read_run(folder),))) if folder.exists() else MISSING


def margins(study: Study) -> Iterator[str]:
    """Yield how far the guidelines are ahead at each sparsity, compared with the deviation over seeds."""
    for target in study.targets:
        ours, other = study.at(OURS, target), study.at(SMC, target)
        if ours is None or other is None:
            continue
        ahead = 100 * ours.mean - 100 * other.mean
        sentence = f"At {100 * target:g} % all guidelines are {abs(ahead):.1f} points "
        sentence += f"{'ahead of' if ahead > 0 else 'behind'} SMC-Bench's schedule on the same weights"
        if ours.spread is not None and other.spread is not None:
            spread = 100 * max(ours.spread, other.spread)
            verdict = "more" if ahead > spread else "not more"
            sentence += f", {verdict} than the larger standard deviation over seeds, {spread:.1f}"
        yield sentence + "."


def ahead(setting: Setting, reference: Setting) -> float | None:
    """Return the mean difference from the reference, over the seeds that both were run with."""
    scores = [{run.recipe.seed: run.score for run in each.runs} for each in (setting, reference)]
    pairs = [(score, scores[1].get(seed)) for seed, score in scores[0].items()]
    known = [score - other for score, other in pairs if score is not None and other is not None]
    return statistics.mean(known) if known else None


def ablations(study: Study) -> list[tuple[Setting, float]]:
    """Return the variants at the sparsity of the ablation, with their difference from all guidelines, best first."""
    reference = study.at(OURS, ABLATION)
    if reference is None:
        return []
    found = [(s, ahead(s, reference)) for s in study.settings if s.target == ABLATION]
    return sorted([(s, delta) for s, delta in found if delta is not None], key=lambda pair: -pair[1])


def ablation_table(study: Study) -> list[list[str]]:
    """Return a table of the variants with their difference from all guidelines at the same seeds."""
    rows = [["variant", study.metric, "points", "zeros of all weights"]]
    for setting, delta in ablations(study):
        name = f"**{setting.series}**" if setting.series == OURS else setting.series
        zeros = f"{100 * setting.sparsity('model'):.1f} %"
        rows.append([name, shown(setting), f"{100 * delta:+.1f}", zeros])
    return rows


def unhelpful(study: Study) -> str:
    """Name the variants that were better than all guidelines together, and those within one deviation."""
    spread = (reference := study.at(OURS, ABLATION)) and reference.spread
    others = [(setting.series, delta) for setting, delta in ablations(study) if setting.series != OURS]
    better = [name for name, delta in others if delta > 0]
    text = f"Better than all guidelines together: {', '.join(better) or 'none of them'}."
    if spread and (near := [name for name, delta in others if -spread <= delta < 0]):
        text += (
            f" Behind by less than the standard deviation over seeds, {100 * spread:.1f}: {', '.join(near)}."
        )
    return text


def tasks_table(home: Path, studies: Sequence[Study]) -> list[list[str]]:
    """Return a table with one row per task: the start, the dense model, then both methods at each sparsity."""
    targets = sorted({target for study in studies for target in study.targets})
    heads = [f"{name}, {100 * target:g} %" for target in targets for name in ("ours", "SMC")]
    rows = [["task", "metric", "steps", "start", "dense", *heads]]
    for study in studies:
        name = study.name
        start = Setting("start", (read_run(home / f"{name}-dense"),))
        dense = study.dense[0] if study.dense else None
        cells = [shown(study.at(series, target)) for target in targets for series in (OURS, SMC)]
        steps = str(study.runs[0].recipe.budget.steps)
        rows.append([name, study.metric, steps, shown(start), shown(dense), *cells])
    return rows


def components(folder: Path) -> str:
    """Return the table of an analysis; empty if there is none."""
    return component_table(read_analysis(folder)).markdown().rstrip() if folder.exists() else ""


def studies_below(folder: Path) -> list[Study]:
    """Return the studies below a folder that have a finished run."""
    folders = {summary.parents[1] for summary in folder.glob("*/*/summary.json")}
    return [Study(path) for path in sorted(folders)]


def has_curve(study: Study) -> bool:
    """Whether there is more than one sparsity to draw."""
    return len(study.targets) > 1


def draw(study: Study, path: Path) -> None:
    """Draw the metric against sparsity, on a scale of log compression."""
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    axes = figure.subplots()
    for setting in study.dense[:1]:
        axes.axhline(100 * setting.mean, color="#6b7280", lw=1, ls="--", label=setting.series)
    for name in ROWS:
        known = [s for s in (study.at(name, target) for target in study.targets) if s is not None]
        x = [log_compression(setting.target) for setting in known]
        means = [100 * setting.mean for setting in known]
        spreads = [100 * (setting.spread or 0) for setting in known]
        axes.errorbar(x, means, yerr=spreads, marker="o", ms=4, capsize=3, color=COLOURS[name], label=name)
    axes.set_xticks([log_compression(t) for t in study.targets], [f"{100 * t:g}" for t in study.targets])
    axes.set_xlabel("sparsity of the weights that a method prunes, %")
    axes.set_ylabel(f"{study.metric}, %")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    save_figure(figure, path)


def describe(run: Run) -> str:
    """Return what all runs of a study have in common."""
    recipe, budget = run.recipe, run.recipe.budget
    start = f"from `{recipe.model.path}`" if recipe.model else ""
    return f"{budget.steps} steps of {budget.batch} examples {start}, peak learning rate {recipe.learning_rate.peak:g}"


def main(home: Path) -> None:
    """Read the runs, draw the pictures, and write the page."""
    studies = [Study(home / name) for name in STUDIES if (home / name).exists()]
    tasks = studies_below(home / "tasks")
    for study in filter(has_curve, studies):
        draw(study, DOCS / f"results-{study.name}.svg")
    functions = (
        shown, teacher, levels, has_curve, margins, ablation_table, unhelpful, markdown_table, describe,
    )  # fmt: skip
    write_markdown(
        HERE / "page.md",
        DOCS / "results-0.1.md",
        studies=studies,
        components=components(home / "components"),
        tasks=tasks_table(home, tasks),
        num_tasks=sum(len(study.runs) for study in tasks),
        median=statistics.median(
            r.summary.seconds or 0.0 for study in studies for r in study.runs if r.summary
        ),
        **{function.__name__: function for function in functions},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/results"))
