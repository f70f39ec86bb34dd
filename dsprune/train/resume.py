"""Where a run begins: anew, or from a checkpoint of its own or of another run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from dsprune.checkpoint.deepspeed_files import is_checkpoint
from dsprune.checkpoint.rank_state import read_rank_state
from dsprune.checkpoint.sparse_start import MasksFrom
from dsprune.checkpoint.tags import complete_tags, invalidate_tag, latest_tag
from dsprune.engine.engine import PruningEngine
from dsprune.errors import UserError
from dsprune.ranks.ranks import Ranks
from dsprune.recipe import Recipe, load_recipe
from dsprune.recipe.recipe import settings_of
from dsprune.train.checkpointing import CLIENT
from dsprune.train.metrics import Meter
from dsprune.train.run_folder import RunFolder
from dsprune.utils.console import say

__all__ = ["Start", "find_start", "restore", "run_folder"]

FREE = (
    *("name", "output", "deepspeed", "precision", "budget.micro_batch", "distillation.store"),
    *("tracking", "checkpoints", "timeout"),
)
"""What of a recipe may change when a run goes on: nothing of it moves the result but by round-off."""


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        tags: folders of the checkpoints to go on from, the first that is good counts; none = anew.
        own: whether they are the run's own: then its log goes on too.
    """

    tags: tuple[Path, ...] = ()
    own: bool = False


def run_folder(recipe: Recipe, resume: Path | None) -> RunFolder:
    """The folder of the run: that of `--resume`, if it is a run's, or else the recipe's own.

    Raises:
        UserError: a run was finished there already.
    """
    if resume is not None and RunFolder(resume).recipe.is_file():
        return RunFolder(resume).unfinished()
    return RunFolder(Path(recipe.output) / recipe.name).unfinished()


def find_start(recipe: Recipe, run: RunFolder, resume: Path | None) -> Start:
    """What to go on from; the run's own checkpoints first.

    Raises:
        UserError: there is an unfinished run of another recipe or without its checkpoints, or nothing at
            `resume`.
    """
    if own := complete_tags(run.checkpoints):
        if difference := next(_differences(load_recipe(str(run.recipe)), recipe), None):
            raise UserError(
                f"{run.path}: holds an unfinished run with another {difference}: give the same recipe to go on, "
                f"another name=... to start anew, or remove it"
            )
        return Start(tuple(own), own=True)
    if latest_tag(run.checkpoints) is not None:  # only ever written when one was complete
        raise UserError(
            f"{run.checkpoints}: none of its checkpoints is complete any more: bring the files back, or remove "
            f"{run.path} to start anew"
        )
    if resume is None:
        return Start()
    if is_checkpoint(resume):
        return Start((resume,))
    latest = latest_tag(resume)
    tags = complete_tags(resume) or ([resume / latest] if latest else [])
    if not tags:
        raise UserError(
            f"--resume: value {resume}: no complete checkpoint there: give the folder of a run, of its "
            f"checkpoints or of one of them, or leave --resume out to start anew"
        )
    return Start(tuple(tags))


def restore(
    engine: PruningEngine,
    meter: Meter,
    start: Start,
    model: Path,
    masks_from: MasksFrom | None,
    ranks: Ranks,
    console: Console,
) -> dict[str, Any]:
    """Load the newest good checkpoint, if there is one to go on from, or take up the model's own zeros.

    Collective: every rank must call this.

    Args:
        engine: holds the model.
        meter: goes on adding.
        start: where to begin.
        model: folder that the model came from.
        masks_from: what becomes of zeros without masks.
        ranks: this process among all.
        console: told what is done.

    Returns:
        What the run had said of itself when it was saved; empty for a new run.

    Raises:
        UserError: no checkpoint is good; what is the matter with the newest.
    """
    failed: dict[Path, UserError] = {}
    for folder in start.tags:
        try:
            _, client = engine.load_checkpoint(str(folder.parent), folder.name, masks_from=masks_from)
        except UserError as error:
            _say(f"{error}; trying the one before", ranks, console)
            failed[folder] = error
            continue
        changed = engine.topology_changes(folder)
        moved = f", moved to another topology: {', '.join(changed)}" if changed else ""
        _say(f"goes on from {folder}, step {engine.applied_steps}{moved}", ranks, console)
        if start.own and ranks.is_first:
            for damaged in failed:
                invalidate_tag(damaged)
        state = read_rank_state(folder)
        if state is not None and start.own:  # else another number of ranks
            meter.restore(state)
        return client.get(CLIENT, {}) if start.own else {}
    if failed:
        raise next(iter(failed.values()))
    if sparsity := engine.start_sparse(model, masks_from):
        _say(f"begins with the zeros of {model}, {sparsity:.4f} of the prunable weights", ranks, console)
    return {}


def _say(message: str, ranks: Ranks, console: Console) -> None:
    if ranks.is_first:
        say(console, message)


def _differences(theirs: Recipe, ours: Recipe) -> Iterator[str]:
    """The settings that are not the same, and matter."""
    then, now = settings_of(theirs), settings_of(ours)
    for key in {**then, **now}:
        if not any(key == free or key.startswith(f"{free}.") for free in FREE) and then.get(key) != now.get(
            key
        ):
            yield f"{key} ({then.get(key)} there, {now.get(key)} here)"
