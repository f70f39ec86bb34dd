"""The two ways in: `initialize` makes a pruning engine, `PruningEngine` wraps one that someone else made."""

import functools
import math
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any

import deepspeed
from deepspeed import DeepSpeedEngine
from torch import Tensor, nn

from dsprune.distributed.masks.files import MANIFEST
from dsprune.engine.checkpoint import load_masks, save_masks
from dsprune.engine.checkpoint_move import moves, take_over
from dsprune.engine.checkpoint_ranks import read_rank_state, save_rank_state
from dsprune.engine.checkpoint_tags import begin_tag, check_tag, latest_tag, seal_tag
from dsprune.engine.dsconfig import load_ds_config, resolve_ds_config
from dsprune.engine.export import save_model_folder
from dsprune.engine.launch import init_distributed
from dsprune.engine.learning_rate import ScaledLR
from dsprune.engine.pruner import Pruner
from dsprune.engine.sparse_start import MasksFrom, begin_sparse, take_up_zeros
from dsprune.engine.support import check_engine
from dsprune.engine.zero import open_layout
from dsprune.errors import UserError
from dsprune.pure.parameter_groups import parameter_groups
from dsprune.pure.prunable import find_prunable
from dsprune.pure.random_state import restore_random_state
from dsprune.pure.recipe import Recipe, load_recipe
from dsprune.pure.schedule import Timetable, build_timetable

__all__ = ["PruningEngine", "initialize"]


def initialize(
    *,
    model: nn.Module,
    config: dict[str, Any] | str,
    recipe: Recipe | str,
    training_data: Sized | None = None,
    steps_per_epoch: int | None = None,
    **kwargs: Any,
) -> tuple["PruningEngine", Any, Any, Any]:
    """`deepspeed.initialize`, and the engine prunes. Collective: every rank must call this.

    Args:
        model: as for DeepSpeed. Unless `model_parameters` or `optimizer` say otherwise, biases and norms are
            optimized without weight decay.
        config: a ds_config, the path of one, or the name of a shipped one; its "auto" come from the recipe.
        recipe: a recipe, or the path or name of one.
        training_data: as for DeepSpeed; the recipe's epochs are counted on it.
        steps_per_epoch: optimizer steps an epoch, for a recipe that counts in epochs without `training_data`.
        **kwargs: passed on to `deepspeed.initialize`.

    Returns:
        Engine, optimizer, data loader and scheduler, as `deepspeed.initialize` does.

    Raises:
        UserError: recipe and ds_config disagree, something cannot be pruned under, or a stale lock would make
            DeepSpeed wait for ever.
    """
    init_distributed()
    world_size = deepspeed.comm.get_world_size()
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    config = resolve_ds_config(
        load_ds_config(config) if isinstance(config, str) else config, recipe, world_size
    )
    if training_data is not None:
        steps_per_epoch = _steps_per_epoch(len(training_data), config, world_size)
    timetable = _timetable(recipe, steps_per_epoch)
    if kwargs.get("optimizer") is None:
        rate = config["optimizer"].get("params", {}).get("lr")
        kwargs.setdefault("model_parameters", parameter_groups(model, rate, recipe.learning_rate.scale))
    engine, optimizer, loader, scheduler = deepspeed.initialize(
        model=model,
        config=config,
        training_data=training_data,
        lr_scheduler=functools.partial(ScaledLR, timetable=timetable),
        **kwargs,
    )
    return PruningEngine(engine, recipe, timetable=timetable), optimizer, loader, scheduler


class PruningEngine:
    """A DeepSpeed engine that prunes: call it, `backward` and `step` as ever; all else is the engine's own.

    Args:
        engine: an initialised engine, at any ZeRO stage, without a scheduler.
        recipe: a recipe, or the path or name of one.
        timetable: when the events are; None = made from the recipe and the engine's own data loader.

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
    def clock(self) -> int:
        """Number of applied optimizer steps; a step skipped on overflow does not count."""
        return self.deepspeed.global_steps - self.deepspeed.skipped_steps

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The forward pass."""
        return self.deepspeed(*args, **kwargs)

    def step(self, *args: Any, **kwargs: Any) -> None:
        """`DeepSpeedEngine.step`, with the event that is due. Collective: every rank must call this."""
        boundary = self.deepspeed.is_gradient_accumulation_boundary()
        if self.pruner is not None and boundary:
            self.pruner.before_step(self.clock)
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
            save_masks(folder, self.pruner, self.clock)
            state |= self.pruner.layout.client_state()
        # Whether it is the latest is said by us: DeepSpeed's own word can be cut off half-way.
        saved = self.deepspeed.save_checkpoint(
            save_dir, tag=tag, client_state=state, save_latest=False, **kwargs
        )
        seal_tag(folder, self.deepspeed.global_steps, latest=save_latest)
        return saved

    def load_checkpoint(
        self, load_dir: str, tag: str | None = None, *, masks_from: MasksFrom | None = None, **kwargs: Any
    ) -> Any:
        """`DeepSpeedEngine.load_checkpoint`, with masks and random states, whoever wrote it.

        A checkpoint of another ZeRO stage, precision or number of ranks is taken over, see
        `dsprune.engine.checkpoint_move`. Collective: every rank must call this.

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
        if self.moves(folder):
            if kwargs:
                raise UserError(
                    f"load_checkpoint: {', '.join(kwargs)}: {folder} was written at another ZeRO stage or on "
                    f"another number of ranks, and is taken over whole: leave it out"
                )
            loaded = take_over(self.deepspeed, folder)
        else:
            loaded = self.deepspeed.load_checkpoint(load_dir, tag=tag, **kwargs)
        if self.pruner is not None and (masks_from is None or (folder / MANIFEST).is_file()):
            load_masks(folder, self.pruner, self.clock)
        elif self.pruner is not None and masks_from == "zeros":
            take_up_zeros(self.pruner, str(folder), self.clock)
        if (state := read_rank_state(folder)) is not None:
            restore_random_state(state)
        return loaded

    def begin_sparse(self, model: Path, masks_from: MasksFrom | None) -> float:
        """Take up the masks of the model folder that the engine's weights come from.

        Collective: every rank must call this. See `dsprune.engine.sparse_start`.
        """
        return begin_sparse(self.deepspeed, self.pruner, model, masks_from, self.clock)

    def moves(self, folder: Path) -> list[str]:
        """What is not here as it was when the checkpoint in `folder` was written, in words."""
        return moves(self.deepspeed, folder)

    def save_model(self, folder: Path, tokenizer: Any) -> None:
        """Write a Hugging Face model folder, with its masks. Collective: every rank must call this.

        Args:
            folder: replaced when it is there; whole or not there at all.
            tokenizer: saved beside the model.
        """
        save_model_folder(self.deepspeed, folder, tokenizer)
        if self.pruner is not None:
            save_masks(folder, self.pruner, self.clock)

    def sparsity(self) -> dict[str, float]:
        """Fraction of zeros in both conventions: of the prunable weights, and of all the model's weights."""
        if self.pruner is None:
            return {"sparsity_prunable": 0.0, "sparsity_model": 0.0}
        # Under stage 3 a parameter's own size is that of an empty placeholder.
        num_weights = sum(getattr(p, "ds_numel", p.numel()) for p in self.deepspeed.module.parameters())
        return {
            "sparsity_prunable": self.pruner.num_pruned / self.pruner.num_prunable,
            "sparsity_model": self.pruner.num_pruned / num_weights,
        }

    def __getattr__(self, name: str) -> Any:
        # Reached only for names that are not this class's own.
        return getattr(self.__dict__["deepspeed"], name)


def _make_pruner(engine: DeepSpeedEngine, recipe: Recipe, timetable: Timetable) -> Pruner | None:
    if recipe.pruning is None:
        return None
    pruning = recipe.pruning
    tensors = find_prunable(engine.module, pruning.include, pruning.exclude, pruning.sparsities)
    return Pruner(open_layout(engine, tensors), pruning, timetable, recipe.seed)


def _timetable(recipe: Recipe, steps_per_epoch: int | None) -> Timetable:
    return build_timetable(recipe.pruning, recipe.learning_rate, recipe.budget, steps_per_epoch)


def _steps_per_epoch(num_examples: int, config: dict[str, Any], world_size: int) -> int:
    """Whole optimizer steps in one pass of DeepSpeed's own loader, which pads the last micro-batches."""
    micro_batch, accumulation = (
        config["train_micro_batch_size_per_gpu"],
        config["gradient_accumulation_steps"],
    )
    return math.ceil(math.ceil(num_examples / world_size) / micro_batch) // accumulation


def _loader_steps(engine: DeepSpeedEngine) -> int | None:
    if engine.training_dataloader is None:
        return None
    return len(engine.training_dataloader) // engine.gradient_accumulation_steps()
