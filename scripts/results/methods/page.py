"""Write docs/methods-compared.md: `python scripts/results/methods/page.py [runs/methods]`.

The results of the runs below the folder are added to runs.csv of the repository. The page is written from
that file, so runs of several machines can be collected without their folders. Every number, and every sentence that
depends on one, is computed. The template page.md holds the description of the experiments only.
"""

import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsprune.report.markdown import markdown_table, mean_cell, write_markdown
from dsprune.report.records import add_records
from dsprune.report.runs import Run, find_folders, read_run
from dsprune.utils.text import MISSING

HERE = Path(__file__).parent
DOCS = Path("docs")
TASKS = {"banking77": "77 intents", "movie-reviews": "movie reviews"}
DEFAULT, MAGNITUDE = "fisher", "magnitude"
TEST = "test.json"

PEAKS = {"half": ", half the peak", "the law's": "", "twice": ", twice the peak"}
"""What follows the name of a pruning method that has such a peak of the learning rate."""


@dataclass(frozen=True, order=True)
class Record:
    """The result of one run.

    Attributes:
        task: name of the task.
        target: target sparsity.
        setting: device and precision.
        method: name of the method in suite.yaml.
        seed: of the run.
        validation: accuracy on the validation split in per cent, one decimal; empty if unknown.
        test: the same on the test split.
        update_ms: median time of a mask update in milliseconds; empty if the run made none.
    """

    task: str
    target: str
    setting: str
    method: str
    seed: str
    validation: str
    test: str
    update_ms: str

    @property
    def key(self) -> tuple[str, ...]:
        """What names the run."""
        return (self.task, self.target, self.setting, self.method, self.seed)


Column = tuple[str, str]
"""Task and target of runs that can be compared."""


def record_of(run: Run, task: str) -> Record:
    """Return the result of a finished run that test_models.py has evaluated."""
    metrics = json.loads((run.path / TEST).read_text(encoding="utf-8"))
    times = [row["update_seconds"] for row in run.rows if "update_seconds" in row]
    device = (run.start.device or "unknown device").partition(":")[0]
    assert run.recipe.pruning is not None, run.path
    return Record(
        task,
        f"{100 * run.recipe.pruning.sparsity:g} %",
        f"{device}, {run.recipe.precision}",
        str(run.recipe.tracking.group),
        str(run.recipe.seed),
        f"{100 * (run.score or 0.0):.2f}",
        f"{100 * float(metrics['accuracy']):.2f}",
        f"{1e3 * statistics.median(times):.0f}" if times else "",
    )


def collect(home: Path) -> Iterator[Record]:
    """Yield the results of the runs below a folder."""
    for task in TASKS:
        folders = find_folders(sorted(home.glob(task)), "recipe.yaml")
        yield from (record_of(read_run(path), task) for path in folders if (path / TEST).is_file())


class Results:
    """Records of one setting, by the columns and rows of a table."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.columns: list[Column] = sorted({(one.task, one.target) for one in records})
        self.methods = sorted({one.method for one in records if not _is_variant(one.method)}, key=self._place)

    def scores(self, column: Column, method: str, split: str = "test") -> list[float]:
        """Return the accuracies of a method in a column, one per seed."""
        rows = [one for one in self.records if (one.task, one.target) == column]
        return [float(value) for one in rows if one.method == method and (value := getattr(one, split))]

    def best(self, column: Column) -> tuple[str, float]:
        """Return the best method of a column at the law's peak, and its mean accuracy."""
        names = {one.method for one in self.records if not _is_variant(one.method)}
        means = {name: statistics.fmean(scores) for name in names if (scores := self.scores(column, name))}
        return max(sorted(means.items()), key=lambda item: item[1])

    def leads(self, method: str) -> list[float]:
        """Return the differences from the default method in the runs that both have: same column, same seed."""
        score = {(one.task, one.target, one.method, one.seed): float(one.test) for one in self.records}
        return [
            value - score[task, target, DEFAULT, seed]
            for (task, target, name, seed), value in score.items()
            if name == method != DEFAULT and (task, target, DEFAULT, seed) in score
        ]

    def _place(self, method: str) -> tuple[float, str]:
        """Return what orders the methods: the mean difference from the default one; those without runs are last."""
        leads = [0.0] if method == DEFAULT else self.leads(method)
        return (-statistics.fmean(leads) if leads else math.inf), method


def by_setting(records: Sequence[Record]) -> dict[str, Results]:
    """Return the results of each setting, those of most runs first."""
    counts = Counter(one.setting for one in records)
    return {
        name: Results([one for one in records if one.setting == name]) for name, _ in counts.most_common()
    }


def compared(results: Results) -> str:
    """Return the table of accuracies, the best methods first."""
    heads = [_title(column) for column in results.columns]
    lines = [["method", f"from {DEFAULT}", "update", *heads]]
    for name in results.methods:
        cells = [mean_cell(results.scores(column, name)) for column in results.columns]
        lines.append([name, _lead(results.leads(name)), _time(results, name), *cells])
    return markdown_table(*lines)


def winners(results: Results) -> Iterator[str]:
    """Yield for each column how far the default score and magnitude are behind the best method."""
    for column in results.columns:
        best, score = results.best(column)
        behind = [
            f"{name} by {score - statistics.fmean(scores):.1f}"
            for name in (DEFAULT, MAGNITUDE)
            if name != best and (scores := results.scores(column, name))
        ]
        said = f" Behind it: {', '.join(behind)}." if behind else ""
        yield f"{_title(column)}: {best} is best.{said}"


def tuned(results: Results) -> str:
    """Return a table of the methods that were run at several peaks; the best on the validation split is chosen."""
    lines = [["method", "runs", *PEAKS, "chosen"]]
    for name in results.methods:
        for column in results.columns:
            tests = {peak: results.scores(column, name + suffix) for peak, suffix in PEAKS.items()}
            checks = {
                peak: statistics.fmean(scores)
                for peak, suffix in PEAKS.items()
                if (scores := results.scores(column, name + suffix, "validation"))
            }
            if len(checks) > 1:
                best = max(checks, key=lambda peak: checks[peak])
                chosen = f"{statistics.fmean(tests[best]):.1f}, {best}"
                lines.append([name, _title(column), *map(mean_cell, tests.values()), chosen])
    return markdown_table(*lines) if len(lines) > 1 else ""


def _title(column: Column) -> str:
    """Return the head of a column."""
    return f"{TASKS[column[0]]}, {column[1]}"


def _lead(leads: Sequence[float]) -> str:
    """Return a mean difference and its standard error as a cell."""
    if not leads:
        return MISSING
    error = f" ± {statistics.stdev(leads) / math.sqrt(len(leads)):.1f}" if len(leads) > 1 else ""
    return f"{statistics.fmean(leads):+.1f}{error} ({len(leads)})"


def _time(results: Results, method: str) -> str:
    times = [float(one.update_ms) for one in results.records if one.method == method and one.update_ms]
    return f"{statistics.median(times):.0f} ms" if times else MISSING


def _is_variant(method: str) -> bool:
    return any(suffix and method.endswith(suffix) for suffix in PEAKS.values())


def main(home: Path, path: Path = HERE / "runs.csv") -> None:
    """Add the results of run folders to the csv file, and write the page from it."""
    records = add_records(path, Record, collect(home))
    write_markdown(
        HERE / "page.md",
        DOCS / "methods-compared.md",
        settings=[
            {
                "name": name,
                "compared": compared(results),
                "winners": list(winners(results)),
                "tuned": tuned(results),
            }
            for name, results in by_setting(records).items()
        ],
        runs=len(records),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/methods"))
