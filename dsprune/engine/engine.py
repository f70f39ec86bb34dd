"""`PruningEngine`: a DeepSpeed engine whose `step` prunes."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from deepspeed import DeepSpeedEngine
from torch import Tensor

from dsprune.checkpoint.load import check_target, load_checkpoint
from dsprune.checkpoint.model_folder import save_model_folder
from dsprune.checkpoint.pruning_state import sparsity_of
from dsprune.checkpoint.save import complete_model, save_checkpoint
from dsprune.checkpoint.sparse_start import MasksFrom, start_sparse
from dsprune.engine.attach import check_attachable, check_is_engine, initial_state, loader_steps_per_epoch
from dsprune.engine.guard import BackwardGuard, StepGuard
from dsprune.engine.learning_rate import (
    Rates,
    announce_replaced,
    announce_unscaled,
    replace_schedulers,
    schedule_learning_rate,
)
from dsprune.engine.pruner import Pruner
from dsprune.engine.script import check_distilled, check_steps_per_epoch, fit_to_recipe
from dsprune.masks.manifest import read_manifest
from dsprune.ranks.agreement import on_every_rank
from dsprune.ranks.group import announce
from dsprune.recipe import AnyRecipe, Distillation, Recipe, as_recipe
from dsprune.schedule import Timetable, recipe_timetable
from dsprune.zero.adam_on_cpu import compute_powers_anew
from dsprune.zero.agreement import check_batch
from dsprune.zero.stage0 import clip_gradients, scale_loss, undo_first_step

__all__ = ["PruningEngine"]


class PruningEngine(DeepSpeedEngine):  # type: ignore[misc]
    """A DeepSpeed engine that prunes.

    `PruningEngine(engine, recipe)` turns `engine` into a pruning engine, in place, and returns it. A framework that
    holds the engine (Accelerate, the Trainer, Lightning) then prunes too, because it calls `step`. Guards end a run
    whose optimizer steps in any other way. Collective: every rank must call this.

    Args:
        engine: an initialized engine, at any ZeRO stage.
        recipe: a recipe, its values, or the path or name of one.
        timetable: the mask updates and the learning rate by step; None builds it from the recipe.
        steps_per_epoch: optimizer steps per epoch, for a recipe in epochs; None takes them from the engine's own data
            loader.
        masks_from: what to do with exact zeros of the weights, see `dsprune.initialize`; None refuses them.

    Attributes:
        timetable: as given or built.
        pruner: prunes at every step; None for a recipe without pruning.

    Raises:
        UserError: dsprune does not support a part of the engine, the engine has its own scheduler, or its settings
            disagree with the recipe; the message names all of them.
    """

    timetable: Timetable
    pruner: Pruner | None
    distillation: Distillation | None

    def __new__(
        cls,
        engine: DeepSpeedEngine | None = None,
        recipe: AnyRecipe | None = None,
        *,
        timetable: Timetable | None = None,
        steps_per_epoch: int | None = None,
        masks_from: MasksFrom | None = None,
    ) -> "PruningEngine":
        """Attach to the engine. `copy.copy` calls this without arguments."""
        if engine is None:
            empty: PruningEngine = super().__new__(cls)
            return empty
        check_is_engine(engine, PruningEngine)
        check_steps_per_epoch(steps_per_epoch)
        recipe = as_recipe(recipe)
        fit_to_recipe(engine.module, recipe)
        steps_per_epoch = steps_per_epoch or loader_steps_per_epoch(engine)
        made = cls.attach(engine, recipe, timetable or recipe_timetable(recipe, steps_per_epoch))
        made.begin_script(masks_from)
        return made

    @classmethod
    def attach(cls, engine: DeepSpeedEngine, recipe: Recipe, timetable: Timetable) -> "PruningEngine":
        """Turn an engine, whose model already follows the recipe, into a pruning engine; errors as for the class.

        Collective: every rank must call this.
        """
        check_attachable(engine, recipe)
        # So that a run does not depend on its stage and its interruptions.
        undo_first_step(engine)
        compute_powers_anew(engine.basic_optimizer)
        state = initial_state(engine, recipe.pruning, timetable)
        schedule_learning_rate(engine, recipe.learning_rate, timetable)
        engine.__class__ = cls
        assert isinstance(engine, cls)
        engine.timetable = timetable
        engine._pruning_state = state
        engine._recipe = recipe
        engine._rates = Rates(engine.basic_optimizer, timetable, engine.lr_scheduler, recipe.learning_rate)
        engine._guard, engine._backwards = StepGuard(engine.basic_optimizer), BackwardGuard(engine)
        engine.pruner = None if state is None else Pruner(state, recipe.seed)
        engine._is_in_script = engine._knows_zeros = False
        engine._masks_from = engine.distillation = None
        return engine

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the engine is initialized already."""

    @property
    def applied_steps(self) -> int:
        """Number of applied optimizer steps. Steps skipped on overflow do not count."""
        return int(self.global_steps - self.skipped_steps)

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Run the forward pass like `DeepSpeedEngine.forward`."""
        with self._explaining():
            outputs = super().forward(*inputs, **kwargs)
        self._backwards.end_forward(outputs)
        return outputs

    def backward(self, loss: Tensor, retain_graph: bool = False, scale_wrt_gas: bool = True) -> Any:
        """Run the backward pass like `DeepSpeedEngine.backward`, and apply the loss scale of fp16 at stage 0 too.

        Raises:
            RunFailedError: it would replace the gradients of another call in this step.
        """
        with self._backwards.backward(), self._explaining():
            scale_loss(self, loss, self.gradient_accumulation_steps() if scale_wrt_gas else 1)
            return super().backward(loss, retain_graph, scale_wrt_gas)

    def _explaining(self) -> AbstractContextManager[None]:
        return nullcontext() if self.pruner is None else self.pruner.explaining()

    def step(self, lr_kwargs: dict[str, Any] | None = None) -> None:
        """Step like `DeepSpeedEngine.step`, with a mask update if one is due. Collective: every rank must call this."""
        if not self.is_gradient_accumulation_boundary():
            super().step(lr_kwargs)
            return
        step = self.applied_steps
        check_batch(self, self._recipe)
        if self._is_in_script:
            self._check_script()
        self._rates.set(step)
        if self.pruner is not None:
            with self._explaining():
                self.pruner.before_step(step)
        with self._guard.open(), self._explaining():
            super().step(lr_kwargs)
        self._guard.check_stepped(applied=self.was_step_applied())
        self._backwards.end_step()
        if step == self.timetable.total_steps:
            announce(f"the recipe ended at step {step}, and training continues at its last rate")
        if self.pruner is not None:
            self.pruner.after_step(step, applied=self.was_step_applied())
        if step + 1 == self.timetable.total_steps:
            self._check_weights()  # before they can be saved

    def clip_fp32_gradients(self) -> None:
        """Clip like `DeepSpeedEngine.clip_fp32_gradients`, and keep the norm for `get_global_grad_norm`."""
        clip_gradients(self)

    def begin_script(self, masks_from: MasksFrom | None) -> None:
        """Check at the first step what a script must do, and start sparse if asked.

        Collective: every rank must call this.
        """
        self._is_in_script, self._masks_from = True, masks_from
        if masks_from is not None:
            self.start_sparse(None, masks_from)

    def _check_script(self) -> None:
        """Check at the first step what a script must have done. Collective: every rank must call this."""
        check_distilled(self._recipe.distillation, self.distillation)
        if not self._knows_zeros:
            self.start_sparse(None)  # which refuses them
        if self.pruner is not None:
            way_out = "make it prune before its first step, or give its module to dsprune.initialize"
            check_target(self.pruner.state, "engine", self.applied_steps, way_out)
        # The script may have made schedulers for the engine's optimizer.
        announce_replaced(self.own_learning_rate())
        announce_unscaled(self.basic_optimizer, self._recipe)
        self._is_in_script = False

    def sparsity(self) -> dict[str, float]:
        """Return fractions of zeros, 0 to 1: `sparsity_prunable` of the prunable and `sparsity_model` of all weights.

        With a shortened vocabulary also `sparsity_full_vocabulary`: of all weights with the complete vocabulary.
        """
        return sparsity_of(self.module, self._pruning_state)

    def save_checkpoint(
        self,
        save_dir: str | Path,
        tag: Any = None,
        client_state: dict[str, Any] | None = None,
        save_latest: bool = True,
        exclude_frozen_parameters: bool = False,
        *,
        rank_state: Mapping[str, Tensor] | None = None,
    ) -> Any:
        """Save like `DeepSpeedEngine.save_checkpoint`, with masks and random states in the tag's folder.

        The tag becomes complete, and the latest, when all files are in place. Collective: every rank must call this.

        Args:
            save_dir: as for DeepSpeed.
            tag: as for DeepSpeed. An existing tag is incomplete while it is overwritten.
            client_state: as for DeepSpeed.
            save_latest: as for DeepSpeed.
            exclude_frozen_parameters: as for DeepSpeed.
            rank_state: tensors of this rank; `read_rank_state` reads them.
        """
        self._check_weights()
        self._backwards.announce_unsaved()
        return save_checkpoint(
            self,
            super().save_checkpoint,
            self._pruning_state,
            Path(save_dir),
            tag,
            client_state or {},
            rank_state or {},
            latest=save_latest,
            exclude_frozen_parameters=exclude_frozen_parameters,
        )

    def load_checkpoint(
        self,
        load_dir: str | Path,
        tag: Any = None,
        load_module_strict: bool = True,
        load_optimizer_states: bool = True,
        load_lr_scheduler_states: bool = True,
        load_module_only: bool = False,
        custom_load_fn: Any = None,
        *,
        masks_from: MasksFrom | None = None,
    ) -> Any:
        """Load like `DeepSpeedEngine.load_checkpoint`, with masks and random states.

        A checkpoint of another ZeRO stage, precision or number of ranks is resharded, see
        `dsprune.checkpoint.reshard`. The learning rate follows the timetable, not a scheduler in the checkpoint, and
        the optimizer keeps its settings. Collective: every rank must call this.

        Args:
            load_dir: as for DeepSpeed.
            tag: as for DeepSpeed.
            load_module_strict: as for DeepSpeed.
            load_optimizer_states: as for DeepSpeed; False keeps weights, masks and step, and drops the moments.
            load_lr_scheduler_states: without effect: the timetable owns the learning rate.
            load_module_only: as for DeepSpeed: load weights and masks, and keep the step of this run.
            custom_load_fn: as for DeepSpeed.
            masks_from: what to do with a checkpoint without masks: `zeros` makes masks of its exact zeros,
                `none` starts dense; None does as the script was started with, or refuses it.

        Raises:
            UserError: a file is damaged, the checkpoint has no masks, or they do not belong to its weights or to
                this run.
        """
        del load_lr_scheduler_states
        loaded = load_checkpoint(
            self,
            super().load_checkpoint,
            self._pruning_state,
            Path(load_dir),
            tag,
            masks_from or self._masks_from,
            load_module_strict=load_module_strict,
            load_optimizer_states=load_optimizer_states,
            load_module_only=load_module_only,
            custom_load_fn=custom_load_fn,
        )
        self._rates.resume(self.applied_steps)
        # A step that was interrupted starts again.
        self.micro_steps = 0
        self._backwards.discard()
        self._knows_zeros |= loaded[0] is not None
        return loaded

    def own_learning_rate(self) -> list[str]:
        """Replace all other schedulers of the optimizer, and return their names."""
        names = replace_schedulers(self.basic_optimizer)
        if names:
            self._rates.resume(self.applied_steps)
        return names

    def start_sparse(self, model: Path | str | None, masks_from: MasksFrom | None = None) -> float:
        """Start from a sparse model, and return the sparsity of the prunable weights at the start.

        Collective: every rank must call this. Arguments and errors: `dsprune.checkpoint.sparse_start.start_sparse`. In
        a script, `model` must be a folder with masks unless `masks_from` is given.
        """
        if self._is_in_script and model is not None and masks_from is None:
            on_every_rank(lambda: read_manifest(Path(model)))
        sparsity = start_sparse(self, self._pruning_state, model, masks_from, self.applied_steps)
        self._knows_zeros = True
        return sparsity

    def save_model(self, folder: Path | str, tokenizer: Any = None) -> None:
        """Write a model, its masks and a tokenizer into a folder. Collective: every rank must call this.

        `from_pretrained` opens the folder of a Hugging Face model; any other module is saved as `model.safetensors`.
        A model that the folder holds is replaced; its other files, such as checkpoints, are kept.
        """
        if self.pruner is not None:
            self.pruner.guard.check_working()
        step = self.applied_steps
        if not self.timetable.is_at_target(step):
            reached, last = self.sparsity()["sparsity_prunable"], self.timetable.updates[-1].step
            announce(f"model saved at step {step}, sparsity {reached:.4f}: the last mask update is at {last}")
        save_model_folder(self, Path(folder), tokenizer)
        complete_model(Path(folder), self._pruning_state, step, self._recipe)

    def save_masks(self, folder: Path | str) -> None:
        """Write masks into an existing model folder, then its checksums. Collective: every rank must call this."""
        if self.pruner is not None:
            self.pruner.guard.check_working()
        complete_model(Path(folder), self._pruning_state, self.applied_steps, self._recipe)

    def _check_weights(self) -> None:
        """Check that no other code has changed the weights. Collective: every rank must call this."""
        if self.pruner is not None:
            self.pruner.guard.check()
