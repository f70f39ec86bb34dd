"""Save checkpoints of a run, and choose which to keep."""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from dsprune.checkpoint.tags import complete_tags, remove_tag
from dsprune.engine.engine import PruningEngine
from dsprune.errors import RunFailedError
from dsprune.ranks.agreement import on_first_rank
from dsprune.ranks.failures import explain_lost_ranks
from dsprune.ranks.group import current_ranks
from dsprune.recipe import Checkpoints
from dsprune.train.client_state import CLIENT, Best, ClientState
from dsprune.train.metrics import Meter, diverged
from dsprune.train.run_folder import RunFolder
from dsprune.train.status_file import StatusFile
from dsprune.train.tracking import Tracker
from dsprune.utils.text import first_line

__all__ = ["Checkpointer"]


class Checkpointer:
    """Saves checkpoints of a run, and keeps the newest ones and the best one.

    Args:
        settings: the recipe's section `checkpoints`.
        run: the run's folder.
        engine: the engine to save.
        meter: its state is saved with the engine.
        tracker: its state is saved with the engine.
        status: shows the newest checkpoint.
        resumed: client state of the checkpoint that the run resumes from; None for a new run.
    """

    def __init__(
        self,
        settings: Checkpoints,
        run: RunFolder,
        engine: PruningEngine,
        meter: Meter,
        tracker: Tracker,
        status: StatusFile,
        resumed: ClientState | None,
    ) -> None:
        self._settings, self._run = settings, run
        self._engine, self._meter, self._tracker, self._status = engine, meter, tracker, status
        timetable = engine.timetable
        self._every = max(1, settings.every.to_steps(timetable.steps_per_epoch, timetable.total_steps))
        self._best = None if resumed is None else resumed.best
        self._saved = 0 if resumed is None else engine.global_steps
        if current_ranks().is_first and resumed is not None:
            self._remove_old()

    def is_due(self) -> bool:
        """Return whether the recipe saves a checkpoint at this step."""
        return self._engine.applied_steps % self._every == 0

    def update_best(self, metrics: dict[str, float]) -> bool:
        """Return whether an evaluation is the best so far; its checkpoint is then kept.

        The first metric is compared, and only after the last mask update: a denser model may have better metrics,
        but not the target sparsity.
        """
        if not self._settings.best or not self._engine.timetable.is_at_target(self._engine.applied_steps):
            return False
        name, value = next(iter(metrics.items()))
        if math.isnan(value) or (self._best is not None and value <= self._best.value):
            return False
        self._best = Best(metric=name, value=value, tag=self._tag)
        return True

    def save(self) -> None:
        """Save a checkpoint, unless the newest one is of this step. Collective: every rank must call this.

        Raises:
            RunFailedError: a loss is NaN or inf, so the weights may be too; or the checkpoint cannot be written.
                Earlier checkpoints are kept.
        """
        if self._engine.global_steps == self._saved:
            return
        if not self._meter.is_finite():
            raise RunFailedError(diverged(self._engine.applied_steps))
        on_first_rank(self._run.check_exists)
        client = ClientState(best=self._best, **self._tracker.state())
        with self._explain_failure():
            self._engine.save_checkpoint(
                str(self._run.checkpoints),
                self._tag,
                client_state={CLIENT: client.model_dump()},
                rank_state=self._meter.state(),
            )
        self._saved = self._engine.global_steps
        self._status.update(checkpoint=self._tag, step=self._engine.applied_steps)
        if current_ranks().is_first:
            self._remove_old()

    @property
    def _tag(self) -> str:
        return f"global_step{self._engine.global_steps}"

    @contextmanager
    def _explain_failure(self) -> Iterator[None]:
        """Remove a checkpoint that cannot be written, to free space, and explain why in one line."""
        try:
            with explain_lost_ranks():
                yield
        except (OSError, RuntimeError) as error:
            self._run.check_exists()
            folder, free = self._run.checkpoints / self._tag, shutil.disk_usage(self._run.path).free
            shutil.rmtree(folder, ignore_errors=True)
            raise RunFailedError(
                f"{folder}: cannot be written ({first_line(error)}; {free:,} bytes were free): "
                f"make room, then run the same command again: it resumes from the last complete checkpoint, if any"
            ) from error

    def _remove_old(self) -> None:
        """Remove tags that are neither among the newest nor the best, and incomplete ones."""
        kept = {folder.name for folder in complete_tags(self._run.checkpoints)[: self._settings.keep]}
        if self._best is not None:
            kept.add(self._best.tag)
        for folder in self._run.checkpoints.glob("global_step*"):
            if folder.name not in kept:
                remove_tag(folder)
