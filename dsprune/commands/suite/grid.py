"""Expand a suite to its runs, each after those that it depends on."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dsprune.commands.suite.definition import Method, Suite
from dsprune.errors import UserError
from dsprune.recipe import Recipe, load_recipe
from dsprune.report.grouping import REFERENCE
from dsprune.schedule.law import scaled_epochs
from dsprune.utils.console import starting

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Grid", "Part", "RunSpec", "check_methods", "rounds_to", "slug"]

PRUNED_PER_ROUND = 0.2
"""Fraction of the remaining weights that a round of iterative pruning removes."""

SAME_ROUND = 0.01
"""Largest relative difference in the remaining weights of two sparsities that count as the same round."""


@dataclass(frozen=True)
class RunSpec:
    """One run of a suite.

    Attributes:
        name: name of the run.
        seed: seed of the run.
        recipe: path or name of the recipe that it changes.
        overrides: changes to the recipe; placeholders in braces are filled in just before the run.
        components: components of the model that are pruned too.
        start: for iterative pruning that rewinds weights: the initial model folder of the first round.
        rewound: for the same: the model folder of the previous round, whose largest weights are trained again; None =
            this is the first round.
        sparsity: target of the run, in the suite's convention; None = dense.
    """

    name: str
    seed: int
    recipe: str
    overrides: tuple[str, ...]
    components: tuple[str, ...] = ()
    start: Path | None = None
    rewound: Path | None = None
    sparsity: float | None = None


@dataclass(frozen=True)
class Part:
    """Runs that depend on each other; one process executes them in this order.

    Attributes:
        grid: the grid of the runs.
        runs: the runs.
        student: a run whose teacher logits store is computed after the runs; students of one seed share the store.
            None = no store.
    """

    grid: "Grid"
    runs: tuple[RunSpec, ...]
    student: RunSpec | None = None


@dataclass(frozen=True)
class Grid:
    """A suite on one recipe.

    Attributes:
        suite: the suite.
        recipe: path or name of the recipe.
        overrides: recipe values for all runs.
        output: folder of the suite.
    """

    suite: Suite
    recipe: str
    overrides: tuple[str, ...]
    output: Path

    @cached_property
    def base(self) -> Recipe:
        """The recipe with the values for all runs."""
        return load_recipe(self.recipe, self.overrides)

    @cached_property
    def model(self) -> "nn.Module":
        """The recipe's model, without memory for its weights.

        Raises:
            UserError: the recipe has no model.
        """
        if self.base.model is None:
            raise self.base.lacks("a suite", "model", "task")
        with starting():
            from dsprune.commands.plan.make import weightless_model

        return weightless_model(self.base.model, self.base.task)

    def parts(
        self, methods: Sequence[str], sparsities: Sequence[float], seeds: Sequence[int]
    ) -> tuple[list[Part], list[Part]]:
        """Return the parts of the grid: teachers and their stores, then all parts that depend on them.

        The parts of each list can run in parallel.
        """
        chains = {
            (seed, name): list(self._chains(name, self.suite.changes(name), sparsities, seed))
            for seed in seeds
            for name in methods
        }
        own_teacher = self.base.distillation is None
        students: dict[int, list[RunSpec]] = {}
        for (seed, _), found in chains.items():
            distilled = [run for chain in found for run in chain if _uses(run, "{teacher}")]
            # The teacher of a recipe has one store for all seeds.
            students.setdefault(seed if own_teacher else 0, []).extend(distilled)
        first = [
            Part(
                self,
                (self.teacher(seed),) if own_teacher else (),
                next((run for run in distilled if _uses(run, "{store}")), None),
            )
            for seed, distilled in students.items()
            if distilled
        ]
        return first, [Part(self, chain) for found in chains.values() for chain in found]

    def teacher(self, seed: int) -> RunSpec:
        """Return the dense training of a seed's teacher, for recipes without a teacher of their own."""
        return self._run(
            "teacher", f"teacher-seed{seed}", seed, None, Method(set=("pruning=null", "distillation=null"))
        )

    def _chains(
        self, name: str, method: Method, sparsities: Sequence[float], seed: int
    ) -> Iterator[tuple[RunSpec, ...]]:
        """Yield the runs of a method; runs that start from the previous one are together."""
        if "pruning=null" in method.set:
            yield (self._run(name, f"{slug(name)}-seed{seed}", seed, None, method),)
        elif method.iterative is None:
            for sparsity in sparsities:
                run = f"{slug(name)}-{_percent(sparsity)}-seed{seed}"
                yield (self._run(name, run, seed, sparsity, method),)
        else:
            paths = [rounds_to(target, sparsities) for target in sparsities]
            rounds = [run for path in paths for run in self._rounds(name, method, path, seed)]
            yield tuple({run.name: run for run in rounds}.values())

    def _rounds(self, name: str, method: Method, targets: Sequence[float], seed: int) -> Iterator[RunSpec]:
        """Yield a dense training and one training for each round; targets share their common rounds."""
        first = f"{slug(name)}-0-seed{seed}"
        start = self.output / f"{first}-start" if method.iterative == "weights" else None
        values = ("pruning=null", *(self._as_it_is(start) if start else ()))
        yield self._run(name, first, seed, None, _with(method, *values), start=start)
        model = self.output / first / "model"
        for sparsity in targets:
            run = f"{slug(name)}-{_percent(sparsity)}-seed{seed}"
            path = self.output / f"{run}-start" if start else model
            values = (f"pruning={{sparsity: {sparsity}, curve: one-shot, start: 0}}", *self._as_it_is(path))
            yield self._run(
                name, run, seed, sparsity, _with(method, *values), start=start, rewound=start and model
            )
            model = self.output / run / "model"

    def _as_it_is(self, path: Path) -> Iterator[str]:
        """Yield the settings for a model that an earlier run wrote, which already has the recipe's changes."""
        yield f"model.path={quoted(str(path))}"
        model = self.base.model
        if model is not None and model.layers is not None:
            yield "model.layers=null"
        yield from (
            f"model.{name}=false" for name in ("new_head", "resize_embeddings") if getattr(model, name, False)
        )

    def _run(
        self,
        method_name: str,
        name: str,
        seed: int,
        sparsity: float | None,
        method: Method,
        *,
        start: Path | None = None,
        rewound: Path | None = None,
    ) -> RunSpec:
        tags = [*self.base.tracking.tags, *([REFERENCE] if method.reference else [])]
        values = [
            f"name={name}", f"seed={seed}", f"output={quoted(str(self.output))}",
            f"tracking.group={quoted(method_name)}", f"tracking.tags={tags}", *self._budget(method.budget, sparsity),
            *([f"pruning.sparsity={sparsity}"] if sparsity is not None else []),
            *(value.replace("{sparsity}", str(sparsity)) for value in method.set),
        ]  # fmt: skip
        overrides = (*self.overrides, *values)
        return RunSpec(name, seed, self.recipe, overrides, method.components, start, rewound, sparsity)

    def _budget(self, factor: float, sparsity: float | None) -> Iterator[str]:
        """Yield the recipe's length times a factor; a length that depends on the target is computed."""
        budget, pruning = self.base.budget, self.base.pruning
        if budget.steps is not None:
            yield f"budget.steps={max(1, round(factor * budget.steps))}"
        elif budget.epochs is not None:
            yield f"budget.epochs={factor * budget.epochs:g}"
        elif pruning is not None:
            yield f"budget.epochs={factor * scaled_epochs(sparsity or pruning.sparsity):g}"


def check_methods(suite: Suite, methods: Sequence[str]) -> None:
    """Check the names of methods.

    Raises:
        UserError: the suite has no method of this name.
    """
    for name in methods:
        if name not in suite.methods:
            raise UserError(f"--methods: {name!r}: the methods are {', '.join(map(repr, suite.methods))}")


def rounds_to(target: float, targets: Sequence[float] = ()) -> list[float]:
    """Return the sparsities of the rounds of iterative pruning; the last one is the target.

    Args:
        target: sparsity after the last round.
        targets: other requested sparsities. A round close to one of them uses it, so that no training is done twice:
            0.59 replaces 1 - 0.8^4.

    Examples:
        >>> rounds_to(0.5)
        [0.2, 0.36, 0.488, 0.5]
        >>> rounds_to(0.672, [0.36, 0.59, 0.672])
        [0.2, 0.36, 0.488, 0.59, 0.672]
    """
    rounds, left = [], 1 - PRUNED_PER_ROUND
    while left > (1 - target) * (1 + SAME_ROUND):
        close = (other for other in targets if abs((1 - other) / left - 1) < SAME_ROUND)
        rounds.append(next(close, round(1 - left, 4)))
        left *= 1 - PRUNED_PER_ROUND
    return [*rounds, target]


def quoted(text: str) -> str:
    """Quote a text for YAML in any place, so that a path such as `runs/no` or `a #b` is unchanged."""
    return json.dumps(text, ensure_ascii=False)


def slug(name: str) -> str:
    """Return the form of a method's name in the names of its runs.

    Examples:
        >>> slug("gradual, as in SMC-Bench")
        'gradual-as-in-SMC-Bench'
    """
    return re.sub(r"[^\w.-]+", "-", name).strip("-")


def _uses(run: RunSpec, placeholder: str) -> bool:
    return any(placeholder in override for override in run.overrides)


def _with(method: Method, *values: str) -> Method:
    return method.model_copy(update={"set": (*method.set, *values)})


def _percent(sparsity: float) -> str:
    return f"{100 * sparsity:g}"
