"""The start of a run: from its model, from its newest checkpoint, or from a checkpoint of another run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dsprune.checkpoint.deepspeed_files import explain_damage, is_checkpoint
from dsprune.checkpoint.rank_state import read_rank_state
from dsprune.checkpoint.reshard import topology_changes
from dsprune.checkpoint.sparse_start import MasksFrom
from dsprune.checkpoint.tag_files import TAG_MANIFEST, check_files
from dsprune.checkpoint.tags import complete_tags, invalidate_tag, latest_tag
from dsprune.engine.engine import PruningEngine
from dsprune.errors import UserError
from dsprune.model.vocabulary import Vocabulary
from dsprune.ranks.agreement import on_every_rank
from dsprune.ranks.group import current_ranks
from dsprune.recipe import Recipe, load_recipe
from dsprune.recipe.recipe import settings_of
from dsprune.train.client_state import CLIENT, ClientState
from dsprune.train.metrics import Meter
from dsprune.train.run_folder import RunFolder
from dsprune.train.run_records import read_start
from dsprune.utils.console import say

__all__ = ["StartPoint", "check_vocabulary", "data_remarks", "find_start_point", "restore", "run_folder"]

MAY_CHANGE = (
    *("name", "output", "deepspeed", "precision", "budget.micro_batch", "distillation.store"),
    *("tracking", "checkpoints", "timeout"),
)
"""Settings that may change when a run is resumed: they change the result only by rounding."""


@dataclass(frozen=True)
class StartPoint:
    """The start of a run.

    Attributes:
        tags: folders of checkpoints; the first good one is loaded. Empty = start from the model.
        is_own: whether they are the run's own checkpoints; its log is then continued.
        lost: why the latest checkpoint is missing in `tags`; None if it is not.
    """

    tags: tuple[Path, ...] = ()
    is_own: bool = False
    lost: str | None = None


def run_folder(recipe: Recipe, resume: Path | None) -> RunFolder:
    """Return the folder of the run: that of `--resume` if it is a run's, otherwise the recipe's.

    Raises:
        UserError: the folder holds a finished run.
    """
    if resume is not None and RunFolder(resume).recipe.is_file():
        return RunFolder(resume).unfinished()
    return RunFolder(Path(recipe.output) / recipe.name).unfinished()


def find_start_point(recipe: Recipe, run: RunFolder, resume: Path | None) -> StartPoint:
    """Find the checkpoints to start from: the run's own, then those at `resume`.

    `resume` is the folder of a run, of its checkpoints or of one checkpoint.

    Raises:
        UserError: the folder holds an unfinished run of another recipe or without complete checkpoints, or `resume` has
            no checkpoint.
    """
    if own := complete_tags(run.checkpoints):
        if difference := next(_differences(load_recipe(str(run.recipe)), recipe), None):
            raise UserError(
                f"{run.path}: holds an unfinished run with another {difference}: give the same recipe to resume, "
                f"another name=... to start a new run, or remove the folder"
            )
        return StartPoint(tuple(own), is_own=True, lost=_why_lost(run.checkpoints, own))
    if latest_tag(run.checkpoints) is not None:  # written only after a checkpoint was complete
        raise UserError(
            f"{run.checkpoints}: none of its checkpoints is complete any more: restore the files, or remove "
            f"{run.path} to start a new run"
        )
    if resume is None:
        return StartPoint()
    if is_checkpoint(resume):
        return StartPoint((resume,))
    if tags := complete_tags(resume):
        return StartPoint(tuple(tags), lost=_why_lost(resume, tags))
    if (latest := latest_tag(resume)) is None:
        raise UserError(
            f"--resume: value {resume}: no complete checkpoint there: give the folder of a run, of its "
            f"checkpoints or of one of them, or leave --resume out to start a new run"
        )
    return StartPoint((resume / latest,))


def _why_lost(checkpoints: Path, complete: Sequence[Path]) -> str | None:
    """Return why the tag that `latest` names is not among the complete ones; None if it is."""
    try:
        latest = latest_tag(checkpoints)
        if latest is None or checkpoints / latest in complete:
            return None
        if check_files(checkpoints / latest) is None:
            return f"{checkpoints / latest}: has no {TAG_MANIFEST}, so it is not complete"
    except UserError as error:
        return str(error)
    return None


def check_vocabulary(start: StartPoint, vocabulary: Vocabulary | None) -> None:
    """Check that the checkpoints have the embedding rows that this run trains.

    Raises:
        UserError: they have others.
    """
    for tag in start.tags[:1]:
        path = RunFolder(tag.parent.parent).vocabulary
        if vocabulary is not None:
            vocabulary.check_same(path)
        elif path.exists():
            raise UserError(
                f"{tag}: was trained only with the tokens of {path.name}: set model.vocabulary=used"
            )


def data_remarks(run: RunFolder, digests: Mapping[str, str]) -> list[str]:
    """Return a line for each split of the data that has changed since an unfinished run began."""
    then = read_start(run.start).data
    return [
        f"task.{split}: the examples differ from those at the start of the run: its result belongs to neither"
        for split, digest in digests.items()
        if then.get(split, digest) != digest
    ]


def restore(
    engine: PruningEngine,
    meter: Meter,
    start: StartPoint,
    model: Path,
    masks_from: MasksFrom | None,
    console: Console,
) -> ClientState | None:
    """Load the newest good checkpoint of the start point, or keep the zeros of a sparse model.

    Collective: every rank must call this.

    Returns:
        The client state of the run's own checkpoint; None for a new run.

    Raises:
        UserError: no checkpoint is good; the message is that of the newest one.
    """
    failed: dict[Path, UserError] = {}
    if start.lost is not None:
        say(console, f"{start.lost}; trying the previous one")
    for folder in start.tags:
        try:
            client = _load(engine, meter, folder, masks_from, is_own=start.is_own)
        except UserError as error:
            if folder != start.tags[-1]:
                say(console, f"{error}; trying the previous one")
            failed[folder] = error
            continue
        changes = topology_changes(engine, folder)
        resharded = f", resharded from another topology: {', '.join(changes)}" if changes else ""
        say(console, f"resumes from {folder}, step {engine.applied_steps}{resharded}")
        if start.is_own and current_ranks().is_first:
            for damaged in failed:
                invalidate_tag(damaged)
        return client
    if failed:
        raise next(iter(failed.values()))
    if sparsity := engine.start_sparse(model, masks_from):
        say(console, f"starts with the zeros of {model}, {sparsity:.4f} of the prunable weights")
    return None


def _load(
    engine: PruningEngine, meter: Meter, folder: Path, masks_from: MasksFrom | None, *, is_own: bool
) -> ClientState | None:
    """Load a checkpoint; if it is the run's own, restore the meter too, and return its client state.

    Collective: every rank must call this.
    """
    _, client = engine.load_checkpoint(str(folder.parent), folder.name, masks_from=masks_from)
    if not is_own:
        return None

    def restore_meter() -> ClientState:
        with explain_damage(folder):
            if (state := read_rank_state(folder)) is not None:  # None after a change of the number of ranks
                meter.restore(state)
            return ClientState.model_validate(client.get(CLIENT, {}))

    return on_every_rank(restore_meter)


def _differences(theirs: Recipe, ours: Recipe) -> Iterator[str]:
    """Yield the settings that differ and must not change."""
    then, now = settings_of(theirs), settings_of(ours)
    for key in {**then, **now}:
        may_change = any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE)
        if not may_change and then.get(key) != now.get(key):
            yield f"{key} ({then.get(key)} there, {now.get(key)} here)"
