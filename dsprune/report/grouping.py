"""Group runs: runs that differ only in the seed are a setting; settings that differ only in sparsity are a series."""

import math
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from dsprune.report.runs import Run
from dsprune.utils.text import flatten

__all__ = [
    "REFERENCE", "TARGET", "Setting", "by_folds", "by_target", "by_temperature", "differences", "reference_of",
    "settings_of",
]  # fmt: skip

# Runs that differ only in these are the same experiment.
IGNORED = {"name", "output", "seed", "tracking", "deepspeed"}
LONGEST_LABEL = 60

REFERENCE = "reference"
"""Tag of the reference runs for others of the same sparsity."""

TARGET = "target="
"""Prefix of the tag with the target of a run in another convention than that of its recipe."""

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Setting:
    """Runs of one recipe with different seeds.

    Attributes:
        series: name of the setting and its counterparts at other sparsities.
        runs: one per seed.
    """

    series: str
    runs: tuple[Run, ...]

    @property
    def target(self) -> float:
        """The target sparsity from its tag, otherwise from the recipe; 0 = nothing is pruned."""
        tagged = next((tag for tag in self.tags if tag.startswith(TARGET)), None)
        if tagged is not None:
            return float(tagged.removeprefix(TARGET))
        pruning = self.runs[0].recipe.pruning
        return 0.0 if pruning is None else pruning.sparsity

    @property
    def temperature(self) -> float:
        """The distillation temperature; 0 = there is none, or it changes during the run."""
        distillation = self.runs[0].recipe.distillation
        return (
            distillation.temperature.first if distillation and distillation.temperature.is_constant else 0.0
        )

    @cached_property
    def scores(self) -> list[float]:
        """Headline metrics of the finished runs."""
        return [run.score for run in self.runs if run.score is not None]

    @property
    def mean(self) -> float:
        """Mean of the scores; there must be at least one."""
        return statistics.fmean(self.scores)

    @property
    def rank(self) -> float:
        """The mean for comparisons: one that is NaN, as a correlation with constant outputs is, is the lowest."""
        return -math.inf if math.isnan(self.mean) else self.mean

    @property
    def best(self) -> float:
        """Mean of the best evaluations at the target sparsity; there must be at least one."""
        return statistics.fmean(run.best for run in self.runs if run.best is not None)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the scores over seeds (n - 1 in the denominator); None for fewer than two."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def repeated(self) -> list[tuple[Run, Run]]:
        """The runs of a seed that an earlier run has too, such as copies, each with that run."""
        first: dict[int, Run] = {}
        pairs = [(first.setdefault(run.recipe.seed, run), run) for run in self.runs]
        return [(one, other) for one, other in pairs if one is not other]

    @property
    def tags(self) -> frozenset[str]:
        """Tags of the runs."""
        return frozenset(tag for run in self.runs for tag in run.recipe.tracking.tags)

    @property
    def folds(self) -> set[int]:
        """Folds of the runs."""
        return {run.recipe.task.fold for run in self.runs if run.recipe.task}

    def sparsity(self, convention: str) -> float:
        """Return the mean sparsity of the finished runs, or of all runs if none is finished."""
        finished = [run for run in self.runs if run.score is not None]
        return statistics.fmean(run.sparsity(convention) for run in finished or self.runs)

    def pooled(self, scores: Sequence[float | None]) -> float | None:
        """Return the mean score of the runs, weighted by their validation examples, as if all examples were one set.

        None if a score or a number of examples is unknown.
        """
        sizes = [None if run.summary is None else run.summary.validation_examples for run in self.runs]
        known = [
            (score, size) for score, size in zip(scores, sizes, strict=True) if score is not None and size
        ]
        if len(known) < len(sizes):
            return None
        return math.fsum(score * size for score, size in known) / sum(size for _, size in known)


def settings_of(runs: Sequence[Run]) -> list[Setting]:
    """Group runs; by series in the order of their first run, then by target.

    The name of a series is the recipes' `tracking.group`. Without a group it consists of the values that differ between
    the runs; if that is too long, it is the recipe's name; if only the sparsity differs, it is the method. Runs
    without pruning are `dense`.
    """
    varying = differences([run for run in runs if run.recipe.pruning is not None])
    groups = _grouped(runs, lambda run: (_label(run, varying), str(_values(run))))
    settings = [Setting(label, tuple(members)) for (label, _), members in groups.items()]
    order = list(dict.fromkeys(setting.series for setting in settings))
    return sorted(settings, key=lambda setting: (order.index(setting.series), setting.target))


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the recipe values that differ between runs, each with its value in every run."""
    recipes = [_values(run) for run in runs]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    found = {key: [recipe.get(key, "") for recipe in recipes] for key in keys}
    return {key: values for key, values in found.items() if len(set(values)) > 1}


def by_target(settings: Sequence[Setting]) -> list[list[Setting]]:
    """Group settings by their target, in ascending order."""
    groups = _grouped(settings, lambda setting: setting.target)
    return [groups[target] for target in sorted(groups)]


def reference_of(settings: Sequence[Setting]) -> Setting:
    """Return the setting with the tag `reference`, otherwise the best; all have a score."""
    tagged = [setting for setting in settings if REFERENCE in setting.tags]
    return tagged[0] if tagged else max(settings, key=lambda setting: setting.rank)


def by_folds(settings: Sequence[Setting]) -> list[Setting]:
    """Return the folds of each cross-validated setting together, if there are several."""
    unlike = ("task.fold", "pruning.sparsity")
    groups = _grouped(settings, lambda setting: (setting.series, setting.target, _others(setting, *unlike)))
    return [setting for setting in map(_joined, groups.values()) if len(setting.folds) > 1]


def by_temperature(settings: Sequence[Setting]) -> list[dict[float, Setting]]:
    """Group settings that differ only in a constant distillation temperature, across series.

    Returns:
        For each group with three temperatures or more, its finished runs by ascending temperature.
    """
    distilled = [setting for setting in settings if setting.temperature]
    families = _grouped(distilled, lambda setting: _others(setting, "distillation.temperature"))
    curves = [_grouped(family, lambda setting: setting.temperature) for family in families.values()]
    return [{t: _joined(curve[t]) for t in sorted(curve)} for curve in curves if len(curve) > 2]


def _grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Return the items by their key, in the order of the first item of each."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _joined(settings: Sequence[Setting]) -> Setting:
    """Return the finished runs of several settings as one, in the series of the first setting."""
    runs = (run for setting in settings for run in setting.runs if run.score is not None)
    return Setting(settings[0].series, tuple(runs))


def _others(setting: Setting, *keys: str) -> str:
    """Return all recipe values of a setting, except those of some keys."""
    return str({key: value for key, value in _values(setting.runs[0]).items() if key not in keys})


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
        return run.recipe.pruning.method
    label = ", ".join(named)
    return label if len(label) <= LONGEST_LABEL else run.name
