"""Runs that differ by their seed alone are one setting; settings that differ in sparsity alone are one series."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dsprune.report.runs import Run

__all__ = ["TARGET", "Setting", "differences", "settings_of"]

# What does not make a run another experiment.
ALIKE = ("name", "output", "seed", "tracking", "deepspeed")


LONGEST_LABEL = 60


TARGET = "target="
"""Begins the tag of a run whose target is counted otherwise than its recipe counts it."""


@dataclass(frozen=True)
class Setting:
    """Runs of one recipe but for the seed.

    Attributes:
        series: what the runs have in common with those at other sparsities.
        runs: one a seed.
    """

    series: str
    runs: tuple[Run, ...]

    @property
    def target(self) -> float:
        """The sparsity that the recipe asks for, or its tag; 0 = nothing is pruned."""
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
    def spread(self) -> float | None:
        """Standard deviation of the scores over seeds (n - 1 in the denominator); None for fewer than two."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def tags(self) -> frozenset[str]:
        """Tags of the runs."""
        return frozenset(tag for run in self.runs for tag in run.recipe.tracking.tags)

    def sparsity(self, convention: str) -> float:
        """Sparsity that was reached, in a convention: the mean over the finished runs, or else over all."""
        finished = [run for run in self.runs if run.score is not None]
        return statistics.fmean(run.sparsity(convention) for run in finished or self.runs)


def settings_of(runs: Sequence[Run]) -> list[Setting]:
    """Group runs; by series in the order of their first run, then by target.

    A series is named by the recipes' `tracking.group`; without one by the values that are not the same in all
    runs, or by the recipe's name where that would be too long; those without pruning are `dense`.
    """
    varying = differences([run for run in runs if run.recipe.pruning is not None])
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        label = _label(run, varying)
        setting = str({key: value for key, value in flat(run).items() if _distinguishes(key)})
        groups.setdefault((label, setting), []).append(run)
    settings = [Setting(label, tuple(members)) for (label, _), members in groups.items()]
    order = list(dict.fromkeys(setting.series for setting in settings))
    return sorted(settings, key=lambda setting: (order.index(setting.series), setting.target))


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The recipe values that are not the same in all runs: for each its value in every run."""
    recipes = [flat(run) for run in runs]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe if _distinguishes(key))
    found = {key: [recipe.get(key, "") for recipe in recipes] for key in keys}
    return {key: values for key, values in found.items() if len(set(values)) > 1}


def flat(run: Run) -> dict[str, str]:
    """The recipe by dotted keys."""
    return dict(_flatten("", run.recipe.model_dump(mode="json")))


def _flatten(prefix: str, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found += _flatten(f"{prefix}{key}.", value)
        else:
            found.append((f"{prefix}{key}", "null" if value is None else str(value)))
    return found


def _distinguishes(key: str) -> bool:
    return key.partition(".")[0] not in ALIKE


def _label(run: Run, varying: Mapping[str, list[str]]) -> str:
    if run.recipe.tracking.group is not None:
        return run.recipe.tracking.group
    if run.recipe.pruning is None:
        return "dense"
    values = flat(run)
    named = [f"{key}={values[key]}" for key in varying if key != "pruning.sparsity" and key in values]
    if not named:
        return run.recipe.task.name if run.recipe.task else run.name
    label = ", ".join(named)
    return label if len(label) <= LONGEST_LABEL else run.name
