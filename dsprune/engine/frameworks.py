"""`dsprune.pruning`: prune with every engine that a framework or a script initializes.

Accelerate, transformers' Trainer and Lightning look up `deepspeed.initialize` when they call it. So a context that
replaces it works for all of them, and for any script.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import ceil, inf
from typing import Any, ClassVar

import deepspeed
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import RandomSampler

from dsprune.checkpoint.sparse_start import MasksFrom
from dsprune.engine.accelerate import check_processes, extend_accelerate
from dsprune.engine.engine import PruningEngine
from dsprune.engine.initialize import deepspeed_initialize, find_config, initialize_script
from dsprune.engine.learning_rate import announce_replaced
from dsprune.engine.script import check_steps_per_epoch
from dsprune.errors import RunFailedError, UserError
from dsprune.ranks.group import announce
from dsprune.recipe import AnyRecipe, Recipe, as_recipe
from dsprune.schedule import Timetable
from dsprune.utils.replacing import replaced
from dsprune.zero.launch import STARTERS, init_distributed, with_environment

__all__ = ["pruning"]


@contextmanager
def pruning(
    recipe: AnyRecipe, *, steps_per_epoch: int | None = None, masks_from: MasksFrom | None = None
) -> Iterator[list[PruningEngine]]:
    """Prune with every engine that `deepspeed.initialize` returns while the context is open.

    The recipe's learning rate replaces a scheduler of the framework, which is announced once. Inside, the
    Trainer logs sparsity and phase, and the model folders that it saves hold the masks.

    Args:
        recipe: a recipe, its values, or the path or name of one.
        steps_per_epoch: optimizer steps per epoch, for a recipe in epochs; None takes them from the framework.
        masks_from: what to do with exact zeros of a model: `zeros` makes masks of them, `none` lets them grow back;
            None refuses them at the first step, unless a checkpoint was loaded. A checkpoint without masks is loaded
            accordingly.

    Yields:
        The pruning engines; each is added when it is made.

    Raises:
        UserError: recipe and framework disagree, the steps per epoch are not known, or no engine trains.
        RunFailedError: training ended before the last mask update.
    """
    check_steps_per_epoch(steps_per_epoch)
    with ExitStack() as stack:
        initialize = _Initialize(as_recipe(recipe), steps_per_epoch, masks_from, stack)
        stack.enter_context(replaced(deepspeed, "initialize", initialize))
        for module in STARTERS:
            init = with_environment(module.init_distributed)
            stack.enter_context(replaced(module, "init_distributed", init))
        extend_accelerate(stack, initialize.loaders)
        stack.callback(register_optimizer_step_pre_hook(initialize.expect_engine).remove)
        yield initialize.engines
    if not initialize.engines:
        raise UserError(_without_engine("the block ended"))
    for engine in initialize.engines:
        _check_finished(engine)


@dataclass
class _Initialize:
    """Replaces `deepspeed.initialize`.

    Attributes:
        stack: closed with the context; undoes later replacements.
        engines: the pruning engines made so far.
        loaders: the loaders that Accelerate has prepared.
        makes_engine: whether an engine that trains was requested.
        prunes: marks this function as a replacement of DeepSpeed's.
    """

    recipe: Recipe
    steps_per_epoch: int | None
    masks_from: MasksFrom | None
    stack: ExitStack
    engines: list[PruningEngine] = field(default_factory=list)
    loaders: list[Any] = field(default_factory=list)
    makes_engine: bool = False
    prunes: ClassVar[bool] = True

    def __call__(
        self,
        args: Any = None,
        model: nn.Module | None = None,
        optimizer: Any = None,
        model_parameters: Any = None,
        training_data: Any = None,
        lr_scheduler: Any = None,
        *others: Any,
        config: Any = None,
        config_params: Any = None,
        **kwargs: Any,
    ) -> Any:
        assert model is not None
        if others:
            raise UserError("deepspeed.initialize: more than six positional arguments: name them")
        found = find_config(args, config, config_params)
        if optimizer is None and not _trains(model, found):  # an engine for evaluation
            given = (args, model, optimizer, model_parameters, training_data, lr_scheduler)
            return deepspeed_initialize(*given, config=config, config_params=config_params, **kwargs)
        self.makes_engine = True
        init_distributed()
        check_processes()
        schedulers = [_name(scheduler) for scheduler in (found.get("scheduler"), lr_scheduler) if scheduler]
        steps_per_epoch = self.steps_per_epoch or _lightning_steps(model) or self._loader_steps(found)
        initialized = initialize_script(
            self.recipe,
            steps_per_epoch,
            self.masks_from,
            model=model,
            config={key: value for key, value in found.items() if key != "scheduler"},
            optimizer=optimizer,
            model_parameters=list(model_parameters) if model_parameters is not None else None,
            training_data=training_data,
            **kwargs,
        )
        self.engines.append(initialized[0])
        announce_replaced([*schedulers, *initialized[0].own_learning_rate()])
        _announce_monitors(model, initialized[0].timetable)
        if "transformers.trainer" in sys.modules:
            from dsprune.engine.trainer import extend_trainer

            extend_trainer(self.stack, self.engines)
        return initialized

    def expect_engine(self, optimizer: Optimizer, *_: Any) -> None:
        """End a run whose optimizer steps before an engine was made. This is a hook of all optimizers.

        Raises:
            UserError: no engine that trains was made, or is being made: DeepSpeed steps an optimizer meanwhile.
        """
        if not self.makes_engine:
            raise UserError(_without_engine(f"{type(optimizer).__name__} steps"))

    def _loader_steps(self, config: dict[str, Any]) -> int | None:
        """Return the optimizer steps in one pass of the loader that Accelerate prepared for training."""
        micro_batch = config.get("train_micro_batch_size_per_gpu")
        shuffled = [loader for loader in self.loaders if _shuffles(loader)]
        sizes = [_batch_size(loader) for loader in shuffled]
        if sizes and micro_batch not in ("auto", *sizes) and micro_batch in map(_batch_size, self.loaders):
            raise UserError(
                f"train_micro_batch_size_per_gpu={micro_batch}: Accelerate takes the smallest of all loaders, and "
                f"the one that shuffles has {sizes[0]}: set it to that in the ds_config, or give all loaders the "
                "same size"
            )
        loaders = [one for one in shuffled or self.loaders if micro_batch in ("auto", _batch_size(one))]
        lengths = {length for loader in loaders if (length := _length(loader)) is not None}
        if len(lengths) > 1 and self.recipe.budget.steps is None:
            raise UserError(
                f"pruning: data loaders of {', '.join(map(str, sorted(lengths)))} batches, and one of them is for "
                f"training: give steps_per_epoch, or count the recipe in steps"
            )
        accumulation = config.get("gradient_accumulation_steps", 1)
        if len(lengths) != 1 or not isinstance(accumulation, int):
            return None
        return ceil(lengths.pop() / accumulation)  # both frameworks step at the end of the loader, too


def _trains(model: nn.Module, config: dict[str, Any]) -> bool:
    """Return whether an engine with a config's optimizer trains; that of TRL's frozen reference model does not."""
    section = config.get("optimizer")
    has_optimizer = section is not None and section.get("type", "") is not None
    return has_optimizer and any(parameter.requires_grad for parameter in model.parameters())


def _without_engine(what: str) -> str:
    """Say that nothing can be pruned, and how an engine is made."""
    way_out = "give a ds_config to the framework"
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":  # it has one
        way_out = (
            "call Accelerate's `prepare` inside it, without Accelerator(cpu=True) or `accelerate launch --cpu`, which "
            "ignore the plugin"
        )
    return (
        f"pruning: {what}, but no DeepSpeed engine that trains was made inside it, so nothing would be pruned: "
        f"{way_out}, or call `deepspeed.initialize`, not an `initialize` imported before"
    )


def _name(scheduler: Any) -> str:
    """Return the name of a scheduler: a section of a ds_config, an object, or a function that makes one."""
    if isinstance(scheduler, dict):
        return str(scheduler.get("type"))
    name = str(getattr(scheduler, "__name__", type(scheduler).__name__))
    is_private = name.startswith("_")  # such as the Trainer's `_lr_scheduler_callable`
    return "of the framework" if is_private else name


def _shuffles(loader: Any) -> bool:
    """Return whether a loader shuffles, like the one for training; Accelerate wraps its sampler."""
    batches = getattr(loader, "batch_sampler", None)
    batches = getattr(batches, "batch_sampler", batches)  # of which a rank gets its share
    return any(isinstance(getattr(one, "sampler", None), RandomSampler) for one in (loader, batches))


def _length(loader: Any) -> int | None:
    """Return the number of batches of a loader; None over an iterable dataset."""
    try:
        return len(loader)
    except TypeError:
        return None


def _batch_size(loader: Any) -> int | None:
    """Return the number of examples in a rank's batch; Accelerate's loaders have it in the sampler."""
    sampler: Any = getattr(loader, "batch_sampler", None)
    size = getattr(loader, "batch_size", None) or getattr(sampler, "batch_size", None)
    return size // sampler.num_processes if size and getattr(sampler, "split_batches", False) else size


def _lightning_trainer(model: nn.Module) -> Any:
    """Return the Trainer of a Lightning module; None for any other module."""
    lightning = sys.modules.get("lightning.pytorch") or sys.modules.get("pytorch_lightning")
    return model.trainer if lightning is not None and isinstance(model, lightning.LightningModule) else None


def _announce_monitors(model: nn.Module, timetable: Timetable) -> None:
    """Print the callbacks of Lightning that also compare evaluations from before the last mask update."""
    for callback in getattr(_lightning_trainer(model), "callbacks", ()):
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and timetable.updates:
            announce(
                f"{type(callback).__name__}(monitor={monitor!r}) also compares models from before the last mask "
                f"update, at step {timetable.updates[-1].step}, which have fewer zeros: leave it out, or let it "
                f"compare only later ones"
            )


def _lightning_steps(model: nn.Module) -> int | None:
    """Return Lightning's optimizer steps per epoch; None for data without a length, and for any other module."""
    trainer = _lightning_trainer(model)
    if trainer is None:
        return None
    trainer.fit_loop.setup_data()  # as Lightning's own estimate does; that depends on max_steps too
    num_batches = trainer.num_training_batches
    return None if num_batches == inf else ceil(num_batches / trainer.accumulate_grad_batches)


def _check_finished(engine: PruningEngine) -> None:
    """Check that an engine that has trained has had its last mask update."""
    timetable, step = engine.timetable, engine.applied_steps
    total = timetable.total_steps
    if not step:
        announce(f"an engine was made and took none of the recipe's {total} steps, so its model is unchanged")
    if step and not timetable.is_at_target(step):
        last, reached = timetable.updates[-1], engine.sparsity()["sparsity_prunable"]
        raise RunFailedError(
            f"training ended at step {step}, and the last mask update is at step {last.step} of "
            f"{total}: the sparsity is {reached:.4f}, not {last.sparsity:g}: train "
            f"longer, or shorten the recipe's budget"
        )
    if 0 < step < total:
        announce(
            f"the model is of step {step} of the recipe's {total}: it has the target sparsity, but missed the end of "
            f"the recovery, where the learning rate is lowest"
        )
