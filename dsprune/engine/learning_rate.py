"""The learning rate of an engine, as the timetable schedules it."""

import gc
from math import isclose
from typing import Any

from deepspeed import DeepSpeedEngine
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from dsprune.errors import RunFailedError, UserError
from dsprune.ranks.group import announce
from dsprune.recipe import LearningRate, Recipe
from dsprune.schedule import Timetable

__all__ = [
    "Rates",
    "ScaledLR",
    "announce_replaced",
    "announce_unscaled",
    "check_no_scheduler",
    "replace_schedulers",
    "schedule_learning_rate",
]


_SETTINGS = ("initial_lr", "weight_decay", "betas", "eps")
"""The recipe's settings in each parameter group; loading a checkpoint overwrites them."""


class ScaledLR(LambdaLR):
    """Scales the learning rate of each parameter group, which is its peak, by the timetable's multiplier.

    `last_epoch` is the step: DeepSpeed does not step the scheduler on overflow, and saves its state in every
    checkpoint.
    """

    def __init__(self, optimizer: Optimizer, timetable: Timetable) -> None:
        super().__init__(optimizer, timetable.lr_multiplier)


class _Replaced:
    """A scheduler that the recipe's learning rate has replaced: it reads the optimizer's rates and sets none."""

    optimizer: Optimizer

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def get_last_lr(self) -> list[float]:
        """Return the rates of the optimizer."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]


def replace_schedulers(optimizer: Optimizer) -> list[str]:
    """Replace every scheduler of an optimizer's groups by one that sets no rate, and return their names.

    transformers' Trainer makes a scheduler for a wrapper of the optimizer, and steps it in addition to the engine.
    """
    groups = {id(group) for group in optimizer.param_groups}
    found = [
        scheduler
        for scheduler in gc.get_objects()
        if issubclass(type(scheduler), LRScheduler)
        and not issubclass(type(scheduler), _Replaced | ScaledLR)
        and any(id(group) in groups for group in scheduler.optimizer.param_groups)
    ]
    names = [type(scheduler).__name__ for scheduler in found]
    for scheduler in found:
        scheduler.__class__ = type(type(scheduler).__name__, (_Replaced, type(scheduler)), {})
    return names


def announce_replaced(schedulers: list[str]) -> None:
    """Print once, on rank 0, the schedulers that the recipe's learning rate replaces."""
    if schedulers:
        names = ", ".join(dict.fromkeys(schedulers))
        announce(f"the recipe's learning rate replaces the scheduler {names}")


def announce_unscaled(optimizer: Optimizer, recipe: Recipe) -> None:
    """Print once, on rank 0, that the optimizer's rate is the peak, if the recipe prunes and sets no peak."""
    if recipe.pruning is not None and recipe.learning_rate.peak is None:
        rates = ", ".join(
            f"{rate:g}" for rate in dict.fromkeys(g["initial_lr"] for g in optimizer.param_groups)
        )
        announce(
            f"the peak learning rate is the optimizer's, {rates}, not scaled with the target: to scale it, set "
            "learning_rate.dense in the recipe"
        )


class Rates:
    """Sets learning rate and first beta of every parameter group before each step; detects changes by other code.

    Args:
        optimizer: scheduled by a `ScaledLR`; `initial_lr` of a group is its peak.
        timetable: gives the multiplier of the peak by step.
        scheduler: the `ScaledLR`. A framework may step it when DeepSpeed does not, such as Lightning on overflow.
        settings: the recipe's section `learning_rate`.

    Raises:
        UserError: the recipe schedules the first beta, and the optimizer has none.
    """

    def __init__(
        self, optimizer: Optimizer, timetable: Timetable, scheduler: ScaledLR, settings: LearningRate
    ) -> None:
        beta = self._beta = settings.beta_at_peak
        self._betas = [tuple(group.get("betas", ())) for group in optimizer.param_groups]
        if beta is not None and () in self._betas:
            raise UserError(
                f"learning_rate.beta_at_peak: value {beta:g}: the optimizer {type(optimizer).__name__} has no betas: "
                "leave it out"
            )
        self._optimizer, self._timetable, self._scheduler = optimizer, timetable, scheduler
        self._settings = [
            {key: group[key] for key in _SETTINGS if key in group} for group in optimizer.param_groups
        ]
        self._last = [group["lr"] for group in optimizer.param_groups]

    def set(self, step: int) -> None:
        """Set the rates of a step.

        Raises:
            RunFailedError: a rate is none of the last one set, the timetable's and the scheduler's.
        """
        self._check_groups()
        groups, rates = self._optimizer.param_groups, self._at(step)
        ours = zip(self._last, rates, self._scheduler.get_last_lr(), strict=True)
        for number, (group, known) in enumerate(zip(groups, ours, strict=True)):
            found, rate = float(group["lr"]), rates[number]
            if not any(isclose(found, one, rel_tol=1e-6) for one in known):
                raise RunFailedError(
                    f"learning_rate: parameter group {number} has {found:g} at step {step}, where the recipe sets "
                    f"{rate:g}: remove the scheduler, callback or line that sets `lr`"
                )
        self._assign(rates)
        if self._beta is not None:
            self._move_betas(self._beta, self._timetable.height(step))

    def _move_betas(self, at_peak: float, height: float) -> None:
        groups = zip(self._optimizer.param_groups, self._settings, self._betas, strict=True)
        for group, settings, (first, second) in groups:
            group["betas"] = settings["betas"] = (first + (at_peak - first) * height, second)

    def _check_groups(self) -> None:
        """Check that the parameter groups and their settings have not changed."""
        groups = self._optimizer.param_groups
        if len(groups) != len(self._settings):
            raise RunFailedError(
                f"optimizer: it has {len(groups)} parameter groups, but had {len(self._settings)} when the engine was "
                f"made: give all parameters to deepspeed.initialize"
            )
        for number, (group, settings) in enumerate(zip(groups, self._settings, strict=True)):
            for key, value in settings.items():
                if group.get(key) != value:
                    raise RunFailedError(
                        f"optimizer: parameter group {number} has {key}={group.get(key)}, and {value} when the engine "
                        f"was made: remove the line that sets it, or set it before deepspeed.initialize"
                    )

    def resume(self, step: int) -> None:
        """Continue from the step of a loaded checkpoint, and restore the optimizer's own settings."""
        for group, settings in zip(self._optimizer.param_groups, self._settings, strict=True):
            group |= settings
        rates = self._at(step)
        scheduler = self._scheduler
        scheduler.last_epoch, scheduler._step_count, scheduler._last_lr = step, step + 1, list(rates)
        self._assign(rates)

    def _at(self, step: int) -> list[float]:
        multiplier = self._timetable.lr_multiplier(step)
        return [group["initial_lr"] * multiplier for group in self._optimizer.param_groups]

    def _assign(self, rates: list[float]) -> None:
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last = rates


def check_no_scheduler(engine: DeepSpeedEngine) -> None:
    """Check that the engine has no scheduler but dsprune's own.

    Raises:
        UserError: it has one.
    """
    if engine.lr_scheduler is not None and not isinstance(engine.lr_scheduler, ScaledLR):
        name = type(engine.lr_scheduler).__name__
        raise UserError(f"learning_rate: the engine has a {name} of its own: make it without a scheduler")


def schedule_learning_rate(engine: DeepSpeedEngine, settings: LearningRate, timetable: Timetable) -> None:
    """Give an engine a `ScaledLR`, unless it has one.

    Raises:
        UserError: the parameter groups cannot have the recipe's scales.
    """
    if engine.lr_scheduler is None:
        engine.lr_scheduler = ScaledLR(engine.basic_optimizer, timetable)
    if settings.scale and len(set(engine.lr_scheduler.base_lrs)) == 1:
        raise UserError(
            "learning_rate.scale: every parameter group of the engine has the same rate: give each of your groups "
            "an `lr`, or let `dsprune.initialize` make them"
        )
