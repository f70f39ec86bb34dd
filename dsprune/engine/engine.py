"""`PruningEngine`: a DeepSpeed engine that prunes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepspeed import DeepSpeedEngine
from torch import Tensor

from dsprune.checkpoint.model_folder import save_model_folder
from dsprune.checkpoint.pruning_state import PruningState, load_masks, save_masks
from dsprune.checkpoint.rank_state import read_rank_state, save_rank_state
from dsprune.checkpoint.reshard import reshard, topology_changes
from dsprune.checkpoint.sparse_start import MasksFrom, mask_zeros, start_sparse
from dsprune.checkpoint.tags import begin_tag, check_tag, commit_tag, latest_tag
from dsprune.engine.learning_rate import schedule_learning_rate
from dsprune.engine.pruner import Pruner
from dsprune.errors import UserError
from dsprune.masks.manifest import MANIFEST
from dsprune.model.prunable import find_prunable
from dsprune.recipe import Pruning, Recipe, load_recipe
from dsprune.schedule import Timetable, build_timetable
from dsprune.utils.randomness import restore_random_state
from dsprune.zero.limits import check_engine
from dsprune.zero.parameters import full_numel, full_shape
from dsprune.zero.stages import open_layout

__all__ = ["PruningEngine"]


class PruningEngine:
    """A DeepSpeed engine that prunes.

    Call it, `backward` and `step` as usual. All attributes that are not listed here are those of the DeepSpeed engine.

    Args:
        engine: an initialized engine, at any ZeRO stage, without a scheduler.
        recipe: a recipe, or the path or name of one.
        timetable: the mask updates and the learning rate by step; None builds it from the recipe and the engine's
            own data loader.

    Attributes:
        deepspeed: the wrapped engine.
        timetable: as given or built.
        pruner: prunes at every step; None for a recipe without pruning.

    Raises:
        UserError: dsprune cannot prune under a part of the engine, or the engine has a scheduler of its own.
    """

    def __init__(
        self, engine: DeepSpeedEngine, recipe: Recipe | str, *, timetable: Timetable | None = None
    ) -> None:
        check_engine(engine)
        recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
        self.deepspeed = engine
        self.timetable = timetable or build_timetable(
            recipe.pruning, recipe.learning_rate, recipe.budget, _steps_per_epoch(engine)
        )
        self._state = _initial_state(engine, recipe.pruning, self.timetable)
        self.pruner = None if self._state is None else Pruner(self._state, recipe.seed)
        schedule_learning_rate(engine, recipe.learning_rate, self.timetable)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward pass."""
        return self.deepspeed(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Return the DeepSpeed engine's attribute; Python calls this only for names that this class lacks."""
        return getattr(self.__dict__["deepspeed"], name)

    @property
    def applied_steps(self) -> int:
        """Number of applied optimizer steps. Steps skipped on overflow do not count."""
        return self.deepspeed.global_steps - self.deepspeed.skipped_steps

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Step like `DeepSpeedEngine.step`, with the mask update that is due. Collective: every rank must call this."""
        boundary = self.deepspeed.is_gradient_accumulation_boundary()
        if self.pruner is not None and boundary:
            self.pruner.before_step(self.applied_steps)
        self.deepspeed.step(*args, **kwargs)
        if self.pruner is not None and boundary:
            self.pruner.after_step(applied=self.deepspeed.was_step_applied())

    def sparsity(self) -> dict[str, float]:
        """Return the fraction of zeros in both conventions: of the prunable weights, and of all the model's weights."""
        if self._state is None:
            return {"sparsity_prunable": 0.0, "sparsity_model": 0.0}
        num_weights = sum(map(full_numel, self.deepspeed.module.parameters()))
        return {
            "sparsity_prunable": self._state.sparsity,
            "sparsity_model": self._state.num_pruned / num_weights,
        }

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
        """Save like `DeepSpeedEngine.save_checkpoint`, with masks and random states in the tag's folder.

        The tag becomes complete, and the latest, when all files are in place. Collective: every rank must call this.

        Args:
            save_dir: as for DeepSpeed.
            tag: as for DeepSpeed. An existing tag is overwritten, and is incomplete meanwhile.
            client_state: as for DeepSpeed.
            save_latest: as for DeepSpeed.
            rank_state: tensors of this rank alone; `read_rank_state` reads them.
            **kwargs: passed to DeepSpeed.
        """
        tag = tag or f"global_step{self.deepspeed.global_steps}"
        folder, state = Path(save_dir, tag), dict(client_state or {})
        begin_tag(folder)
        save_rank_state(folder, rank_state or {})
        if self._state is not None:
            save_masks(folder, self._state, self.applied_steps)
            state |= self._state.layout.client_state()
        # `commit_tag` writes `latest`, since DeepSpeed does not write it atomically.
        saved = self.deepspeed.save_checkpoint(
            save_dir, tag=tag, client_state=state, save_latest=False, **kwargs
        )
        commit_tag(folder, self.deepspeed.global_steps, latest=save_latest)
        return saved

    def load_checkpoint(
        self, load_dir: str, tag: str | None = None, *, masks_from: MasksFrom | None = None, **kwargs: Any
    ) -> Any:
        """Load like `DeepSpeedEngine.load_checkpoint`, with masks and random states.

        A checkpoint of another ZeRO stage, precision or number of ranks is resharded, see
        `dsprune.checkpoint.reshard`. Collective: every rank must call this.

        Args:
            load_dir: as for DeepSpeed.
            tag: as for DeepSpeed.
            masks_from: what to do with a checkpoint without masks: `zeros` makes masks of its exact zeros,
                `none` starts dense; None refuses it.
            **kwargs: passed to DeepSpeed.

        Raises:
            UserError: a file is damaged, the checkpoint has no masks, or they do not belong to its weights or to
                this run.
        """
        tag = tag or latest_tag(Path(load_dir))
        if tag is None:
            return self.deepspeed.load_checkpoint(load_dir, **kwargs)
        folder = Path(load_dir, tag)
        check_tag(folder)
        if not self.topology_changes(folder):
            loaded = self.deepspeed.load_checkpoint(load_dir, tag=tag, **kwargs)
        elif not kwargs:
            loaded = reshard(self.deepspeed, folder)
        else:
            raise UserError(
                f"load_checkpoint: {', '.join(kwargs)}: {folder} was written at another ZeRO stage, precision or "
                f"number of ranks, and can only be resharded completely: leave it out"
            )
        self._load_masks(folder, masks_from)
        if (random_state := read_rank_state(folder)) is not None:
            restore_random_state(random_state)
        return loaded

    def topology_changes(self, folder: Path) -> list[str]:
        """Return how this engine differs from the one that wrote a checkpoint, such as `ZeRO stage 2 -> 3`."""
        return topology_changes(self.deepspeed, folder)

    def start_sparse(self, model: Path, masks_from: MasksFrom | None) -> float:
        """Keep the zeros of the model folder that the engine's weights come from.

        Collective: every rank must call this. See `dsprune.checkpoint.sparse_start`.

        Returns:
            The sparsity at the start, of the prunable weights.
        """
        return start_sparse(self.deepspeed, self._state, model, masks_from, self.applied_steps)

    def save_model(self, folder: Path, tokenizer: Any) -> None:
        """Write a Hugging Face model folder, with its masks. Collective: every rank must call this.

        Args:
            folder: replaced if it exists; the model is written atomically.
            tokenizer: saved beside the model.
        """
        save_model_folder(self.deepspeed, folder, tokenizer)
        if self._state is not None:
            save_masks(folder, self._state, self.applied_steps)

    def _load_masks(self, folder: Path, masks_from: MasksFrom | None) -> None:
        if self._state is None:
            return
        if masks_from is None or (folder / MANIFEST).is_file():
            load_masks(folder, self._state, self.applied_steps)
        elif masks_from == "zeros":
            mask_zeros(self._state, str(folder), self.applied_steps)


def _initial_state(
    engine: DeepSpeedEngine, pruning: Pruning | None, timetable: Timetable
) -> PruningState | None:
    """Return dense masks of the prunable weights; None for a recipe without pruning."""
    if pruning is None:
        return None
    tensors = find_prunable(
        engine.module, pruning.include, pruning.exclude, pruning.sparsities, shape_of=full_shape
    )
    return PruningState(open_layout(engine, tensors), pruning, timetable)


def _steps_per_epoch(engine: DeepSpeedEngine) -> int | None:
    """Return the optimizer steps in one pass of the engine's own data loader; None if it has none."""
    if engine.training_dataloader is None:
        return None
    return len(engine.training_dataloader) // engine.gradient_accumulation_steps()
