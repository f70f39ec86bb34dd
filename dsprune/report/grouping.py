"""Group runs: those that differ in the seed only are a setting, settings that differ in sparsity only are a series."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from dsprune.report.runs import Run
from dsprune.utils.text import flatten

__all__ = [
    "REFERENCE", "TARGET", "Setting", "by_folds", "by_target", "by_temperature", "differences", "pooled",
    "reference_of", "settings_of",
]  # fmt: skip

# Runs that differ in these only are the same experiment.
IGNORED = {"name", "output", "seed", "tracking", "deepspeed"}
LONGEST_LABEL = 60

REFERENCE = "reference"
"""Tag of the runs that others of the same sparsity are compared with."""

TARGET = "target="
"""Prefix of the tag that gives the target of a run in another convention than its recipe."""


@dataclass(frozen=True)
class Setting:
    """Runs of one recipe except for the seed.

    Attributes:
        series: name that the setting shares with those at other sparsities.
        runs: one per seed.
    """

    series: str
    runs: tuple[Run, ...]

    @property
    def target(self) -> float:
        """The target sparsity by its tag, or else by the recipe; 0 = nothing is pruned."""
        tagged = next((tag for tag in self.tags if tag.startswith(TARGET)), None)
        if tagged is not None:
            return float(tagged.removeprefix(TARGET))
        pruning = self.runs[0].recipe.pruning
        return 0.0 if pruning is None else pruning.sparsity

    @cached_property
    def scores(self) -> list[float]:
        """Headline metrics of the finished runs."""
        return [run.score for run in self.runs if run.score is not None]

    @property
    def mean(self) -> float | None:
        """Mean of the scores, if there are any."""
        return statistics.fmean(self.scores) if self.scores else None

    @property
    def best(self) -> float | None:
        """Mean of the best evaluations at the target sparsity, if there are any."""
        best = [run.best for run in self.runs if run.best is not None]
        return statistics.fmean(best) if best else None

    @property
    def spread(self) -> float | None:
        """Standard deviation of the scores over seeds (n - 1 in the denominator); None for fewer than two."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def tags(self) -> frozenset[str]:
        """Tags of the runs."""
        return frozenset(tag for run in self.runs for tag in run.recipe.tracking.tags)

    def sparsity(self, convention: str) -> float:
        """Return the mean sparsity that the finished runs reached, or all runs if none is finished."""
        finished = [run for run in self.runs if run.score is not None]
        return statistics.fmean(run.sparsity(convention) for run in finished or self.runs)


def settings_of(runs: Sequence[Run]) -> list[Setting]:
    """Group runs; by series in the order of their first run, then by target.

    A series is named by the recipes' `tracking.group`. Without a group it is named by the values that differ
    between the runs, or by the recipe's name where that would be too long; runs without pruning are `dense`.
    """
    varying = differences([run for run in runs if run.recipe.pruning is not None])
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((_label(run, varying), str(_values(run))), []).append(run)
    settings = [Setting(label, tuple(members)) for (label, _), members in groups.items()]
    order = list(dict.fromkeys(setting.series for setting in settings))
    return sorted(settings, key=lambda setting: (order.index(setting.series), setting.target))


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the recipe values that are not the same in all runs: for each its value in every run."""
    recipes = [_values(run) for run in runs]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    found = {key: [recipe.get(key, "") for recipe in recipes] for key in keys}
    return {key: values for key, values in found.items() if len(set(values)) > 1}


def by_target(settings: Sequence[Setting]) -> list[list[Setting]]:
    """Group settings by their target, in ascending order."""
    ordered = sorted(settings, key=lambda setting: setting.target)
    return [list(group) for _, group in groupby(ordered, key=lambda setting: setting.target)]


def reference_of(settings: Sequence[Setting]) -> Setting:
    """Return the setting with the tag `reference`, or else the best."""
    tagged = [setting for setting in settings if REFERENCE in setting.tags]
    return tagged[0] if tagged else max(settings, key=lambda setting: setting.mean or 0.0)


def by_folds(settings: Sequence[Setting]) -> list[Setting]:
    """Return the folds of each cross-validated setting together, where there are several."""
    groups: dict[tuple[str, str], dict[int, list[Run]]] = {}
    for setting in settings:
        for run in setting.runs:
            if run.recipe.task is not None and run.score is not None:
                others = _values(run) | {"task.fold": "", "pruning.sparsity": f"{setting.target}"}
                folds = groups.setdefault((setting.series, str(others)), {})
                folds.setdefault(run.recipe.task.fold, []).append(run)
    return [
        Setting(series, tuple(run for runs in folds.values() for run in runs))
        for (series, _), folds in groups.items()
        if len(folds) > 1
    ]


def pooled(runs: Sequence[Run], scores: Sequence[float | None]) -> float | None:
    """Return the mean of scores, each run weighted by its validation examples: the rows right of all rows.

    None where a score or a number of examples is not known.
    """
    sizes = [None if run.summary is None else run.summary.validation_examples for run in runs]
    known = [(score, size) for score, size in zip(scores, sizes, strict=True) if score is not None and size]
    if len(known) < len(runs):
        return None
    return math.fsum(score * size for score, size in known) / sum(size for _, size in known)


def by_temperature(settings: Sequence[Setting]) -> list[dict[float, Setting]]:
    """Group runs that differ in a constant distillation temperature only, whatever their series.

    Returns:
        For each group with three temperatures or more, its runs by ascending temperature.
    """
    groups: dict[str, dict[float, list[Run]]] = {}
    for run in (run for setting in settings for run in setting.runs):
        distillation = run.recipe.distillation
        if distillation is not None and distillation.temperature.is_constant:
            others = _values(run) | {"distillation.temperature": ""}
            group = groups.setdefault(str(others), {})
            group.setdefault(distillation.temperature.first, []).append(run)
    return [
        {temperature: Setting("", tuple(runs)) for temperature, runs in sorted(group.items())}
        for group in groups.values()
        if len(group) > 2
    ]


def _values(run: Run) -> dict[str, str]:
    """Return the recipe values that distinguish experiments as text, by dotted keys."""
    recipe = run.recipe.model_dump(mode="json", exclude=IGNORED)
    return {key: "null" if value is None else str(value) for key, value in flatten(recipe)}


def _label(run: Run, varying: Mapping[str, list[str]]) -> str:
    if run.recipe.tracking.group is not None:
        return run.recipe.tracking.group
    if run.recipe.pruning is None:
        return "dense"
    values = _values(run)
    named = [f"{key}={values[key]}" for key in varying if key != "pruning.sparsity" and key in values]
    if not named:
        return run.recipe.task.name if run.recipe.task else run.name
    label = ", ".join(named)
    return label if len(label) <= LONGEST_LABEL else run.name
