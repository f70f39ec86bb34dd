"""Trackers of a run's values: metrics.jsonl always, Weights & Biases if the recipe asks for it; on rank 0 only."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from dsprune.ranks.ranks import Ranks
from dsprune.recipe import Recipe
from dsprune.schedule import Timetable
from dsprune.train.client_state import ClientState
from dsprune.train.run_folder import RunFolder

__all__ = ["JsonLines", "Tracker", "open_tracker"]


class Tracker(Protocol):
    """Records the values of a run."""

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Record values of a step, counted in applied optimizer steps."""

    def state(self) -> dict[str, Any]:
        """Return the fields of `ClientState` from which `open_tracker` continues."""

    def finish(
        self, step: int, summary: dict[str, Any], tensor_sparsity: dict[str, float], model: Path
    ) -> None:
        """Record the result at the end of the timetable: summary, fraction of zeros by tensor, and model folder."""

    def close(self, exit_code: int = 0) -> None:
        """Close the tracker before the process ends with `exit_code`. Later calls do nothing."""


def open_tracker(
    recipe: Recipe, run: RunFolder, timetable: Timetable, ranks: Ranks, resumed: ClientState
) -> Tracker:
    """Return the tracker of this rank.

    Args:
        recipe: its section `tracking` selects the trackers.
        run: the folder of the run, which holds the ds_config already.
        timetable: recorded with the recipe.
        ranks: this process among all.
        resumed: client state of the checkpoint that the run resumes from; the defaults for a new run.
    """
    if not ranks.is_first:
        return _Trackers([])
    trackers: list[Tracker] = [JsonLines(run.metrics, resumed.metrics_bytes)]
    if recipe.tracking.wandb:
        from dsprune.train.wandb_tracker import WeightsAndBiases  # slow to import

        config = {
            **recipe.model_dump(mode="json"),
            "timetable": timetable.to_dict(),
            "ds_config": json.loads(run.ds_config.read_text(encoding="utf-8")),
            "world_size": ranks.world_size,
        }
        trackers.append(WeightsAndBiases(recipe, run, config, resumed.wandb_id))
    return _Trackers(trackers)


class JsonLines:
    """Writes one JSON object a line, and flushes it, so that a killed run keeps what it logged.

    Args:
        path: file to append to.
        size: bytes of it to keep; later lines are cut off, since the run logs them again.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._file.truncate(min(size, path.stat().st_size))

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Write a line."""
        finite = {key: _finite(value) for key, value in values.items()}
        self._file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
        self._file.flush()

    def state(self) -> dict[str, Any]:
        """Return the size of the file so far."""
        return {"metrics_bytes": os.fstat(self._file.fileno()).st_size}

    def finish(
        self, step: int, summary: dict[str, Any], tensor_sparsity: dict[str, float], model: Path
    ) -> None:
        """Write nothing: the run writes its summary itself."""

    def close(self, exit_code: int = 0) -> None:
        """Close the file."""
        self._file.close()


class _Trackers:
    """Passes everything to several trackers; none on ranks that do not log."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers

    def log(self, step: int, values: dict[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.log(step, values)

    def state(self) -> dict[str, Any]:
        return {key: value for tracker in self._trackers for key, value in tracker.state().items()}

    def finish(
        self, step: int, summary: dict[str, Any], tensor_sparsity: dict[str, float], model: Path
    ) -> None:
        for tracker in self._trackers:
            tracker.finish(step, summary, tensor_sparsity, model)

    def close(self, exit_code: int = 0) -> None:
        for tracker in self._trackers:
            tracker.close(exit_code)


def _finite(value: Any) -> Any:
    """Replace NaN and inf, which JSON does not have, by their names."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
