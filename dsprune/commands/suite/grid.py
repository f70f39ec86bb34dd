"""From a suite to its runs, in an order in which each finds what it needs."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from dsprune.commands.plan.make import weightless_model
from dsprune.commands.suite.definition import Method, Suite
from dsprune.errors import UserError
from dsprune.recipe import Recipe, load_recipe
from dsprune.report.compare import REFERENCE
from dsprune.schedule.law import scaled_epochs

__all__ = ["Grid", "Part", "RunSpec"]

ROUND = 0.2
"""Share of the weights left that a round of iterative pruning takes away."""


@dataclass(frozen=True)
class RunSpec:
    """One run.

    Attributes:
        name: of the run.
        seed: of the run.
        recipe: path or name of the recipe that it changes.
        overrides: how; they may hold places that are filled in just before the run, in braces.
        components: components of the model that are pruned too.
        start: of a chain of rounds that rewinds weights, the model folder that it began with.
        rewound: model folder of the round before, whose largest weights are trained anew; None = the first.
    """

    name: str
    seed: int
    recipe: str
    overrides: tuple[str, ...]
    components: tuple[str, ...] = ()
    start: Path | None = None
    rewound: Path | None = None


@dataclass(frozen=True)
class Part:
    """Runs that need one another, so that one process makes them, in this order.

    Attributes:
        grid: what they are of.
        jobs: the runs.
        pupil: a run whose teacher is asked then, for all of its seed; None = nothing more.
    """

    grid: "Grid"
    jobs: tuple[RunSpec, ...]
    pupil: RunSpec | None = None


@dataclass(frozen=True)
class Grid:
    """A suite on one recipe.

    Attributes:
        suite: what is run.
        recipe: path or name of a recipe.
        overrides: recipe values for all runs.
        output: folder of the suite.
    """

    suite: Suite
    recipe: str
    overrides: tuple[str, ...]
    output: Path

    @cached_property
    def base(self) -> Recipe:
        """The recipe as all runs begin with it."""
        return load_recipe(self.recipe, self.overrides)

    @cached_property
    def model(self) -> nn.Module:
        """The recipe's model, without memory for its weights.

        Raises:
            UserError: the recipe has none.
        """
        if self.base.model is None:
            raise UserError(f"recipe {self.recipe!r}: a suite needs the sections model and task: add them")
        return weightless_model(self.base.model, self.base.task)

    def parts(
        self, methods: Sequence[str], sparsities: Sequence[float], seeds: Sequence[int]
    ) -> tuple[list[Part], list[Part]]:
        """What can be done side by side: first teachers and their stores, then all that needs them."""
        chains = {
            (seed, name): list(self._chains(name, self.suite.changes(name), sparsities, seed))
            for seed in seeds
            for name in methods
        }
        own = self.base.distillation is None
        pupils: dict[int, list[RunSpec]] = {}
        for (seed, _), found in chains.items():
            learners = [job for chain in found for job in chain if _mentions(job, "{teacher}")]
            # A teacher that the recipe names has one store, for all seeds.
            pupils.setdefault(seed if own else 0, []).extend(learners)
        first = [
            Part(
                self,
                (self.teacher(seed),) if own else (),
                next((job for job in learners if _mentions(job, "{store}")), None),
            )
            for seed, learners in pupils.items()
            if learners
        ]
        return first, [Part(self, chain) for found in chains.values() for chain in found]

    def teacher(self, seed: int) -> RunSpec:
        """The dense training that gives a seed its teacher; the recipe's own teacher makes it needless."""
        return self._job(
            "teacher", f"teacher-seed{seed}", seed, None, Method(set=("pruning=null", "distillation=null"))
        )

    def _chains(
        self, name: str, method: Method, sparsities: Sequence[float], seed: int
    ) -> Iterator[tuple[RunSpec, ...]]:
        """The runs of a method; those of which each starts where another ended are together."""
        if "pruning=null" in method.set:
            yield (self._job(name, f"{slug(name)}-seed{seed}", seed, None, method),)
        elif method.iterative is None:
            for sparsity in sparsities:
                run = f"{slug(name)}-{_percent(sparsity)}-seed{seed}"
                yield (self._job(name, run, seed, sparsity, method),)
        else:
            rounds = [job for target in sparsities for job in self._rounds(name, method, target, seed)]
            yield tuple({job.name: job for job in rounds}.values())

    def _rounds(self, name: str, method: Method, target: float, seed: int) -> Iterator[RunSpec]:
        """A dense training, and one for each round; targets share the rounds that they have in common."""
        first = f"{slug(name)}-0-seed{seed}"
        start = self.output / f"{first}-start" if method.iterative == "weights" else None
        values = ("pruning=null", *([f"model.path={start}"] if start else []))
        yield self._job(name, first, seed, None, _with(method, *values), start=start)
        model = self.output / first / "model"
        for sparsity in rounds_to(target):
            run = f"{slug(name)}-{_percent(sparsity)}-seed{seed}"
            path = self.output / f"{run}-start" if start else model
            values = (f"pruning={{sparsity: {sparsity}, curve: one-shot, start: 0}}", f"model.path={path}")
            yield self._job(
                name, run, seed, sparsity, _with(method, *values), start=start, rewound=start and model
            )
            model = self.output / run / "model"

    def _job(
        self,
        method_name: str,
        run: str,
        seed: int,
        sparsity: float | None,
        method: Method,
        *,
        start: Path | None = None,
        rewound: Path | None = None,
    ) -> RunSpec:
        tags = [REFERENCE] if method.reference else []
        values = [
            f"name={run}", f"seed={seed}", f"output={self.output}", f'tracking.group="{method_name}"',
            f"tracking.tags={tags}", *self._budget(method.budget, sparsity),
            *([f"pruning.sparsity={sparsity}"] if sparsity is not None else []),
            *(value.replace("{sparsity}", str(sparsity)) for value in method.set),
        ]  # fmt: skip
        return RunSpec(run, seed, self.recipe, (*self.overrides, *values), method.components, start, rewound)

    def _budget(self, factor: float, sparsity: float | None) -> Iterator[str]:
        """The recipe's length, times a factor; a length that follows from the target is spelt out."""
        budget, pruning = self.base.budget, self.base.pruning
        if budget.steps is not None:
            yield f"budget.steps={max(1, round(factor * budget.steps))}"
        elif budget.epochs is not None:
            yield f"budget.epochs={factor * budget.epochs:g}"
        elif pruning is not None:
            yield f"budget.epochs={factor * scaled_epochs(sparsity or pruning.sparsity):g}"


def _mentions(job: RunSpec, place: str) -> bool:
    return any(place in override for override in job.overrides)


def _with(method: Method, *values: str) -> Method:
    return method.model_copy(update={"set": (*method.set, *values)})


def rounds_to(target: float) -> list[float]:
    """Sparsities of the rounds up to a target, which the last one meets.

    Examples:
        >>> rounds_to(0.5)
        [0.2, 0.36, 0.488, 0.5]
    """
    rounds, left = [], 1 - ROUND
    while 1 - left < target - 1e-9:
        rounds.append(round(1 - left, 4))
        left *= 1 - ROUND
    return [*rounds, target]


def slug(name: str) -> str:
    """A method's name as part of a run's.

    Examples:
        >>> slug("gradual, as in SMC-Bench")
        'gradual-as-in-SMC-Bench'
    """
    return re.sub(r"[^\w.-]+", "-", name).strip("-")


def _percent(sparsity: float) -> str:
    return f"{100 * sparsity:g}"


def check_methods(suite: Suite, methods: Sequence[str]) -> None:
    """Refuse names that are not in the suite.

    Raises:
        UserError: one is not.
    """
    for name in methods:
        if name not in suite.methods:
            raise UserError(f"--methods: {name!r}: the methods are {', '.join(map(repr, suite.methods))}")
