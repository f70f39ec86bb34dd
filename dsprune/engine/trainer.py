"""transformers' Trainer: sparsity in its logs, masks in its model folders."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields
from typing import Any

from transformers import Trainer, TrainingArguments
from transformers import TrainerCallback as _TrainerCallback
from transformers.trainer_callback import CallbackHandler
from transformers.training_args import OptimizerNames

from dsprune.engine.engine import PruningEngine
from dsprune.engine.learning_rate import announce_replaced
from dsprune.engine.trainer_loss import watch_loss
from dsprune.errors import RunFailedError, UserError
from dsprune.ranks.group import announce
from dsprune.utils.replacing import replaced

__all__ = ["TrainerCallback", "extend_trainer"]


DEFAULTS = (OptimizerNames.ADAMW_TORCH, OptimizerNames.ADAMW_TORCH_FUSED)
"""Defaults of `TrainingArguments.optim` in releases of torch and transformers."""


class TrainerCallback(_TrainerCallback):
    """Adds sparsity, phase and mask updates to the Trainer's logs; keeps its best model at the target sparsity.

    `dsprune.pruning` adds one, before the callbacks that report the logs.

    Args:
        engine: the engine of the Trainer.
    """

    def __init__(self, engine: PruningEngine) -> None:
        self._engine = engine

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check that the Trainer trains as long as the recipe, with the optimizer that it was asked for.

        Raises:
            UserError: its number of steps differs from the recipe's, its engine has trained already, or its arguments
                ask for another optimizer than the ds_config makes.
        """
        _check_optimizer(self._engine, args.optim)
        _check_settings(self._engine, args)
        if self._engine.global_steps != state.global_step:
            raise UserError(
                f"Trainer: train() starts at step {state.global_step}, but its engine is at step "
                f"{self._engine.global_steps}, because an engine trains only once: make a new Trainer for "
                "another training"
            )
        total = self._engine.timetable.total_steps
        if state.max_steps != total:
            raise UserError(
                f"TrainingArguments: the Trainer takes {state.max_steps} steps and the recipe {total}: set "
                f"max_steps={total}, or budget.steps={state.max_steps}"
            )
        if self._engine.zero_optimization_partition_weights() and not (
            self._engine.zero_gather_16bit_weights_on_model_save()
        ):
            announce(
                "the Trainer's model folders hold masks and no weights at ZeRO stage 3: set "
                "zero_optimization.stage3_gather_16bit_weights_on_model_save=true in the ds_config, or call "
                "engine.save_model(folder)"
            )
        watch_loss(self._engine, args)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forget the best evaluation until the last mask update: its model has too few zeros to be the result.

        So `load_best_model_at_end`, `save_strategy="best"` and early stopping choose among evaluations at the target.
        """
        if not self._engine.timetable.is_at_target(self._engine.applied_steps):
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check that the Trainer and its engine count the same steps: Accelerate steps the engine in each `backward`.

        Raises:
            RunFailedError: the engine has taken another number of steps, so the recipe ends at another time.
        """
        if self._engine.global_steps != state.global_step:
            raise RunFailedError(
                f"Trainer: step {state.global_step} ended with its engine at step {self._engine.global_steps}: "
                f"accelerator.backward steps the engine, so call it once a training_step, on the sum of the losses"
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Add the metrics of the pruning to a log of the training, and to its copy, the last of the history."""
        if logs and "loss" in logs:
            for entry in (logs, *state.log_history[-1:]):
                entry |= pruning_metrics(self._engine)


def _check_optimizer(engine: PruningEngine, optim: OptimizerNames | str) -> None:
    """Check that `TrainingArguments.optim`, if it is not a default, is the optimizer of the ds_config."""
    asked, kind = OptimizerNames(optim), type(engine.basic_optimizer).__name__
    if engine.client_optimizer is None and asked not in DEFAULTS and asked.value != kind.lower():
        raise UserError(
            f"TrainingArguments: optim={asked.value} has no effect beside the section optimizer of the ds_config, "
            f"which makes {kind}: leave optim out, or remove the section"
        )


def _check_settings(engine: PruningEngine, args: TrainingArguments) -> None:
    """Check that the arguments of the optimizer, if they are not the defaults, are its settings."""
    if engine.client_optimizer is not None:
        return
    groups = engine.basic_optimizer.param_groups
    defaults = {field.name: field.default for field in fields(args)}
    made = {"weight_decay": max(group["weight_decay"] for group in groups)}
    if "betas" in groups[0]:
        betas, epsilon = groups[0]["betas"], groups[0]["eps"]
        made |= {"adam_beta1": betas[0], "adam_beta2": betas[1], "adam_epsilon": epsilon}
    for name, value in made.items():
        asked = getattr(args, name)
        if asked not in (defaults[name], value):
            raise UserError(
                f"TrainingArguments: {name}={asked:g} has no effect beside the section optimizer of the ds_config, "
                f"which makes it {value:g}: set it to auto there, or leave {name} out"
            )


def pruning_metrics(engine: PruningEngine) -> dict[str, Any]:
    """Return sparsity, phase and the number of mask updates so far."""
    step = engine.applied_steps
    return {
        **engine.sparsity(),
        "phase": engine.timetable.phase_at(max(0, step - 1)),
        "mask_updates": sum(update.step < step for update in engine.timetable.updates),
    }


def extend_trainer(stack: ExitStack, engines: Sequence[PruningEngine]) -> None:
    """Make every Trainer save the masks of its engine, and get its callback until `stack` is closed."""
    _extend_save_model()
    begin = CallbackHandler.on_train_begin
    if getattr(begin, "adds_callback", False):
        return

    def begin_with_callback(self: Any, args: Any, state: Any, control: Any) -> Any:
        for engine in engines:
            has_one = any(isinstance(callback, TrainerCallback) for callback in self.callbacks)
            if engine.module is self.model and not has_one:
                self.callbacks.insert(0, TrainerCallback(engine))  # before those that report the logs
                announce_replaced(engine.own_learning_rate())
        return begin(self, args, state, control)

    begin_with_callback.adds_callback = True  # type: ignore[attr-defined]
    stack.enter_context(replaced(CallbackHandler, "on_train_begin", begin_with_callback))


def _extend_save_model() -> None:
    """Make every Trainer save the masks of its engine, for good: some scripts save the model after the context."""
    save_model = Trainer.save_model
    if getattr(save_model, "saves_masks", False):
        return

    def save_model_and_masks(self: Any, output_dir: str | None = None, _internal_call: bool = False) -> None:
        save_model(self, output_dir, _internal_call)
        if isinstance(self.model_wrapped, PruningEngine):
            self.model_wrapped.save_masks(output_dir or self.args.output_dir)

    save_model_and_masks.saves_masks = True  # type: ignore[attr-defined]
    Trainer.save_model = save_model_and_masks  # type: ignore[method-assign]
