"""The two ways in: `initialize` makes a pruning engine, `PruningEngine` wraps one that someone else made."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepspeed import DeepSpeedEngine
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dsprune.checkpoint.model_folder import save_model_folder
from dsprune.checkpoint.pruning_state import PruningState, load_masks, save_masks
from dsprune.checkpoint.rank_state import read_rank_state, save_rank_state
from dsprune.checkpoint.reshard import reshard, topology_changes
from dsprune.checkpoint.sparse_start import MasksFrom, begin_sparse, masks_from_zeros
from dsprune.checkpoint.tags import begin_tag, check_tag, complete_tag, latest_tag
from dsprune.engine.pruner import Pruner
from dsprune.errors import UserError
from dsprune.masks.manifest import MANIFEST
from dsprune.model.prunable import find_prunable
from dsprune.recipe import Recipe, load_recipe
from dsprune.schedule import Timetable, build_timetable
from dsprune.utils.randomness import restore_random_state
from dsprune.zero.limits import check_engine
from dsprune.zero.parameters import full_numel, full_shape
from dsprune.zero.stages import open_layout

__all__ = ["PruningEngine", "ScaledLR"]


class PruningEngine:
    """A DeepSpeed engine that prunes: call it, `backward` and `step` as ever; all else is the engine's own.

    Args:
        engine: an initialised engine, at any ZeRO stage, without a scheduler.
        recipe: a recipe, or the path or name of one.
        timetable: when the mask updates are; None = made from the recipe and the engine's own data loader.

    Raises:
        UserError: the engine has a part that dsprune cannot prune under, or a scheduler of its own.
    """

    def __init__(
        self, engine: DeepSpeedEngine, recipe: Recipe | str, *, timetable: Timetable | None = None
    ) -> None:
        check_engine(engine)
        recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
        self.deepspeed = engine
        self.timetable = timetable or _timetable(recipe, _loader_steps(engine))
        self.pruner = _make_pruner(engine, recipe, self.timetable)
        if engine.lr_scheduler is None:
            engine.lr_scheduler = ScaledLR(engine.basic_optimizer, self.timetable)
        elif not isinstance(engine.lr_scheduler, ScaledLR):
            name = type(engine.lr_scheduler).__name__
            raise UserError(f"learning_rate: the engine has a {name} of its own: make it without a scheduler")
        if recipe.learning_rate.scale and len(set(engine.lr_scheduler.base_lrs)) == 1:
            raise UserError(
                "learning_rate.scale: every parameter group of the engine has the same rate: give the groups that "
                "you made an `lr` each, or let `dsprune.initialize` make them"
            )

    @property
    def applied_steps(self) -> int:
        """Number of applied optimizer steps; a step skipped on overflow does not count."""
        return self.deepspeed.global_steps - self.deepspeed.skipped_steps

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The forward pass."""
        return self.deepspeed(*args, **kwargs)

    def step(self, *args: Any, **kwargs: Any) -> None:
        """`DeepSpeedEngine.step`, with the mask update that is due. Collective: every rank must call this."""
        boundary = self.deepspeed.is_gradient_accumulation_boundary()
        if self.pruner is not None and boundary:
            self.pruner.before_step(self.applied_steps)
        self.deepspeed.step(*args, **kwargs)
        if self.pruner is not None and boundary:
            self.pruner.after_step(applied=self.deepspeed.was_step_applied())

    def save_checkpoint(
        self,
        save_dir: str,
        tag: str | None = None,
        client_state: dict[str, Any] | None = None,
        save_latest: bool = True,
        *,
        rank_state: Mapping[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> Any:
        """`DeepSpeedEngine.save_checkpoint`, with masks and random states in the tag's folder.

        A tag is whole, or it is not found: `latest` is written when every file is in place. Collective: every
        rank must call this.

        Args:
            save_dir: as for DeepSpeed.
            tag: as for DeepSpeed. A tag that is there already is written over, and is not whole meanwhile.
            client_state: as for DeepSpeed.
            save_latest: as for DeepSpeed.
            rank_state: what this rank alone wants to find again, see `read_rank_state`.
            **kwargs: passed on to DeepSpeed.
        """
        tag = tag or f"global_step{self.deepspeed.global_steps}"
        folder, state = Path(save_dir, tag), dict(client_state or {})
        begin_tag(folder)
        save_rank_state(folder, rank_state or {})
        if self.pruner is not None:
            save_masks(folder, self.pruner.state, self.applied_steps)
            state |= self.pruner.state.layout.client_state()
        # Whether it is the latest is said by us: DeepSpeed's own word can be cut off half-way.
        saved = self.deepspeed.save_checkpoint(
            save_dir, tag=tag, client_state=state, save_latest=False, **kwargs
        )
        complete_tag(folder, self.deepspeed.global_steps, latest=save_latest)
        return saved

    def load_checkpoint(
        self, load_dir: str, tag: str | None = None, *, masks_from: MasksFrom | None = None, **kwargs: Any
    ) -> Any:
        """`DeepSpeedEngine.load_checkpoint`, with masks and random states, whoever wrote it.

        A checkpoint of another ZeRO stage, precision or number of ranks is taken over, see
        `dsprune.checkpoint.reshard`. Collective: every rank must call this.

        Args:
            load_dir: as for DeepSpeed.
            tag: as for DeepSpeed.
            masks_from: what to do with a checkpoint without masks: `zeros` makes masks of its exact zeros,
                `none` begins dense; None refuses it.
            **kwargs: passed on to DeepSpeed.

        Raises:
            UserError: a file is damaged, the checkpoint has no masks, or they do not fit its weights or this
                run.
        """
        tag = tag or latest_tag(Path(load_dir))
        if tag is None:
            return self.deepspeed.load_checkpoint(load_dir, **kwargs)
        folder = Path(load_dir, tag)
        check_tag(folder)
        if self.topology_changes(folder):
            if kwargs:
                raise UserError(
                    f"load_checkpoint: {', '.join(kwargs)}: {folder} was written at another ZeRO stage or on "
                    f"another number of ranks, and is taken over whole: leave it out"
                )
            loaded = reshard(self.deepspeed, folder)
        else:
            loaded = self.deepspeed.load_checkpoint(load_dir, tag=tag, **kwargs)
        if self.pruner is not None and (masks_from is None or (folder / MANIFEST).is_file()):
            load_masks(folder, self.pruner.state, self.applied_steps)
        elif self.pruner is not None and masks_from == "zeros":
            masks_from_zeros(self.pruner.state, str(folder), self.applied_steps)
        if (state := read_rank_state(folder)) is not None:
            restore_random_state(state)
        return loaded

    def begin_sparse(self, model: Path, masks_from: MasksFrom | None) -> float:
        """Take up the masks of the model folder that the engine's weights come from.

        Collective: every rank must call this. See `dsprune.checkpoint.sparse_start`.
        """
        state = None if self.pruner is None else self.pruner.state
        return begin_sparse(self.deepspeed, state, model, masks_from, self.applied_steps)

    def topology_changes(self, folder: Path) -> list[str]:
        """What is not here as it was when the checkpoint in `folder` was written, in words."""
        return topology_changes(self.deepspeed, folder)

    def save_model(self, folder: Path, tokenizer: Any) -> None:
        """Write a Hugging Face model folder, with its masks. Collective: every rank must call this.

        Args:
            folder: replaced when it is there; whole or not there at all.
            tokenizer: saved beside the model.
        """
        save_model_folder(self.deepspeed, folder, tokenizer)
        if self.pruner is not None:
            save_masks(folder, self.pruner.state, self.applied_steps)

    def sparsity(self) -> dict[str, float]:
        """Fraction of zeros in both conventions: of the prunable weights, and of all the model's weights."""
        if self.pruner is None:
            return {"sparsity_prunable": 0.0, "sparsity_model": 0.0}
        num_weights = sum(map(full_numel, self.deepspeed.module.parameters()))
        state = self.pruner.state
        return {
            "sparsity_prunable": state.num_pruned / state.num_prunable,
            "sparsity_model": state.num_pruned / num_weights,
        }

    def __getattr__(self, name: str) -> Any:
        # Reached only for names that are not this class's own.
        return getattr(self.__dict__["deepspeed"], name)


def _make_pruner(engine: DeepSpeedEngine, recipe: Recipe, timetable: Timetable) -> Pruner | None:
    if recipe.pruning is None:
        return None
    pruning = recipe.pruning
    tensors = find_prunable(
        engine.module, pruning.include, pruning.exclude, pruning.sparsities, shape_of=full_shape
    )
    return Pruner(PruningState(open_layout(engine, tensors), pruning, timetable), recipe.seed)


def _timetable(recipe: Recipe, steps_per_epoch: int | None) -> Timetable:
    return build_timetable(recipe.pruning, recipe.learning_rate, recipe.budget, steps_per_epoch)


def _loader_steps(engine: DeepSpeedEngine) -> int | None:
    if engine.training_dataloader is None:
        return None
    return len(engine.training_dataloader) // engine.gradient_accumulation_steps()


class ScaledLR(LambdaLR):
    """Each parameter group's own learning rate is its peak; the timetable says what fraction of it to take.

    `last_epoch` is the step: DeepSpeed does not step the scheduler on overflow, and its state is part of
    every checkpoint.
    """

    def __init__(self, optimizer: Optimizer, timetable: Timetable) -> None:
        super().__init__(optimizer, timetable.lr_multiplier)
