"""When a run is saved, and which of its checkpoints are kept."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dsprune.checkpoint.tags import complete_tags, remove_tag
from dsprune.engine.engine import PruningEngine
from dsprune.errors import RunFailedError
from dsprune.ranks.failures import explain_lost_ranks
from dsprune.ranks.ranks import Ranks
from dsprune.recipe import Checkpoints
from dsprune.train.metrics import Meter, diverged
from dsprune.train.run_folder import RunFolder
from dsprune.train.status_file import StatusFile
from dsprune.train.tracking import Tracker

__all__ = ["CLIENT", "Checkpointer"]

CLIENT = "dsprune"
"""Key of a checkpoint's client state: what the run itself wants to find again."""


class Checkpointer:
    """Saves the run every so often, and keeps the newest checkpoints and the best.

    Args:
        settings: the recipe's section.
        run: the folder.
        ranks: this process among all.
        engine: what is saved.
        meter: what it has added up is saved too.
        tracker: its place is saved too.
        status: told of the newest checkpoint.
        resumed: what the checkpoint said that the run goes on from, empty for a new run.
    """

    def __init__(
        self,
        settings: Checkpoints,
        run: RunFolder,
        ranks: Ranks,
        engine: PruningEngine,
        meter: Meter,
        tracker: Tracker,
        status: StatusFile,
        resumed: dict[str, Any],
    ) -> None:
        self._settings, self._run, self._ranks = settings, run, ranks
        self._engine, self._meter, self._tracker, self._status = engine, meter, tracker, status
        timetable = engine.timetable
        self._every = max(1, settings.every.to_steps(timetable.steps_per_epoch, timetable.total_steps))
        self._best: dict[str, Any] | None = resumed.get("best")
        self._saved = engine.global_steps if resumed else 0
        if ranks.is_first and resumed:
            self._drop_old()

    def evaluated(self, metrics: dict[str, float]) -> bool:
        """Whether these are the best so far, and worth a checkpoint.

        The first metric counts, and only at the target: a model that is still dense is better, and no use.
        """
        timetable = self._engine.timetable
        at_target = not timetable.updates or timetable.phase_at(self._engine.applied_steps - 1) == "recover"
        if not self._settings.best or not at_target:
            return False
        name, value = next(iter(metrics.items()))
        if self._best is not None and value <= self._best["value"]:
            return False
        self._best = {"metric": name, "value": value, "tag": self._tag}
        return True

    def is_due(self) -> bool:
        """Whether the step says so."""
        return self._engine.applied_steps % self._every == 0

    def save(self) -> None:
        """Save, unless the newest checkpoint is of this step. Collective: every rank must call this.

        Raises:
            RunFailedError: a loss was no number, so the weights are none; or the disk is full. What was saved
                before stays.
        """
        if self._engine.global_steps == self._saved:
            return
        if not self._meter.is_finite():
            raise RunFailedError(diverged(self._engine.applied_steps))
        client = {"best": self._best, **self._tracker.state()}
        with self._written():
            self._engine.save_checkpoint(
                str(self._run.checkpoints),
                self._tag,
                client_state={CLIENT: client},
                rank_state=self._meter.state(),
            )
        self._saved = self._engine.global_steps
        self._status.update(checkpoint=self._tag, step=self._engine.applied_steps)
        if self._ranks.is_first:
            self._drop_old()

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Says in one line why a checkpoint could not be written, and makes room for the next try."""
        try:
            with explain_lost_ranks():
                yield
        except (OSError, RuntimeError) as error:
            free = shutil.disk_usage(self._run.path).free
            shutil.rmtree(self._run.checkpoints / self._tag, ignore_errors=True)
            reason = str(error).strip().splitlines()[0]
            raise RunFailedError(
                f"{self._run.checkpoints / self._tag}: cannot be written ({reason}; {free:,} bytes were free): "
                f"make room, and the same command goes on from the checkpoint before"
            ) from error

    @property
    def _tag(self) -> str:
        return f"global_step{self._engine.global_steps}"

    def _drop_old(self) -> None:
        """Remove what is neither among the newest nor the best, and what a crash left half-written."""
        kept = {folder.name for folder in complete_tags(self._run.checkpoints)[: self._settings.keep]}
        if self._best is not None:
            kept.add(self._best["tag"])
        for folder in self._run.checkpoints.glob("global_step*"):
            if folder.name not in kept:
                remove_tag(folder)
