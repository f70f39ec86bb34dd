"""Save an engine as a tag of a checkpoint, and complete a model folder, with masks and a list of all files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deepspeed import DeepSpeedEngine
from torch import Tensor

from dsprune.checkpoint.made import Made
from dsprune.checkpoint.model_card import finish_folder
from dsprune.checkpoint.model_folder import left_out, model_config
from dsprune.checkpoint.pruning_state import PruningState
from dsprune.checkpoint.rank_state import save_rank_state
from dsprune.checkpoint.saved_masks import save_masks
from dsprune.checkpoint.tags import begin_tag, commit_tag, tag_name
from dsprune.ranks.agreement import on_every_rank, on_first_rank
from dsprune.recipe import Recipe
from dsprune.zero.pickles import check_client_state

__all__ = ["complete_model", "save_checkpoint"]


def save_checkpoint(
    engine: DeepSpeedEngine,
    save: Callable[..., Any],
    state: PruningState | None,
    save_dir: Path,
    tag: Any,
    client_state: Mapping[str, Any],
    rank_state: Mapping[str, Tensor],
    *,
    latest: bool,
    **options: Any,
) -> Any:
    """Save a tag, which is complete when all its files are in place. Collective: every rank must call this.

    Args:
        engine: the engine to save.
        save: DeepSpeed's saver of this engine.
        state: the masks; None for an engine that does not prune.
        save_dir: folder of the tags.
        tag: a tag; None names it by the step.
        client_state: passed to DeepSpeed's saver.
        rank_state: tensors of this rank.
        latest: whether the tag becomes the latest.
        **options: passed to DeepSpeed's saver.
    """
    on_every_rank(lambda: check_client_state(client_state))
    tag = tag_name(f"global_step{engine.global_steps}" if tag is None else tag)
    folder, client = save_dir / tag, {**client_state, **model_config(engine.module)}
    if options.get("exclude_frozen_parameters"):
        client |= left_out(engine.module)
    begin_tag(folder)
    save_rank_state(folder, rank_state)
    if state is not None:
        save_masks(folder, state, int(engine.global_steps - engine.skipped_steps), accumulators=True)
        client |= state.layout.client_state()
    # `commit_tag` writes `latest`, because DeepSpeed does not write it atomically.
    saved = save(str(save_dir), tag=tag, client_state=client, save_latest=False, **options)
    commit_tag(folder, engine.global_steps, latest=latest)
    return saved


def complete_model(folder: Path, state: PruningState | None, step: int, recipe: Recipe) -> None:
    """Write the masks into a model folder, then its card and the checksums of all its files.

    Collective: every rank must call this.
    """
    if state is not None:
        save_masks(folder, state, step, accumulators=False)
    on_first_rank(lambda: finish_folder(folder, Made(recipe)))
