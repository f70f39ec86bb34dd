"""Where a run's numbers go: metrics.jsonl always, Weights & Biases when the recipe asks; from rank 0 only."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsprune.ranks.ranks import Ranks
from dsprune.recipe import Recipe
from dsprune.schedule import Timetable
from dsprune.train.run_folder import RunFolder

__all__ = ["JsonLines", "Result", "Tracker", "open_tracker"]


@dataclass(frozen=True)
class Result:
    """What came out of a finished run.

    Attributes:
        summary: metrics, sparsity and what else is in summary.json.
        tensor_sparsity: fraction of zeros by name of the tensor.
        model: folder of the Hugging Face model.
    """

    summary: dict[str, Any]
    tensor_sparsity: dict[str, float]
    model: Path


class Tracker:
    """Takes a run's numbers. This one lets them go, which is what ranks need that do not log."""

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Record some values that belong to `step`, the step after the step."""

    def state(self) -> dict[str, Any]:
        """What `open_tracker` needs to go on from here."""
        return {}

    def finish(self, step: int, result: Result) -> None:
        """Record what came out, at the end of the timetable."""

    def close(self, exit_code: int = 0) -> None:
        """Record no more, of a process that is to end with `exit_code`; closing again does nothing."""


class JsonLines(Tracker):
    """One JSON object a line, flushed, so that a killed run keeps what it logged."""

    def __init__(self, path: Path, resumed: Mapping[str, Any]) -> None:
        """Appends to the file, from where the `state` of an earlier one ends."""
        self._file = path.open("a", encoding="utf-8")
        # What was logged after the checkpoint is logged again.
        self._file.truncate(min(resumed.get("metrics_bytes", 0), path.stat().st_size))

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Write a line."""
        finite = {key: _finite(value) for key, value in values.items()}
        self._file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
        self._file.flush()

    def state(self) -> dict[str, Any]:
        """How much of the file belongs to the run so far."""
        return {"metrics_bytes": os.fstat(self._file.fileno()).st_size}

    def close(self, exit_code: int = 0) -> None:
        """Close the file."""
        self._file.close()


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become their names."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class _Several(Tracker):
    def __init__(self, trackers: list[Tracker]) -> None:
        self._trackers = trackers

    def log(self, step: int, values: dict[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.log(step, values)

    def state(self) -> dict[str, Any]:
        return {key: value for tracker in self._trackers for key, value in tracker.state().items()}

    def finish(self, step: int, result: Result) -> None:
        for tracker in self._trackers:
            tracker.finish(step, result)

    def close(self, exit_code: int = 0) -> None:
        for tracker in self._trackers:
            tracker.close(exit_code)


def open_tracker(
    recipe: Recipe, run: RunFolder, timetable: Timetable, ranks: Ranks, resumed: Mapping[str, Any]
) -> Tracker:
    """The tracker of this rank.

    Args:
        recipe: its section tracking says to whom.
        run: the folder, in which the run has begun.
        timetable: is told with the recipe.
        ranks: this process among all.
        resumed: the `state` of an earlier tracker to go on from; empty = a new one.
    """
    if not ranks.is_first:
        return Tracker()
    trackers: list[Tracker] = [JsonLines(run.metrics, resumed)]
    if recipe.tracking.wandb:
        from dsprune.train.wandb_tracker import WeightsAndBiases  # only who asks waits for the import

        config = {
            **recipe.model_dump(mode="json"),
            "timetable": timetable.to_dict(),
            "ds_config": json.loads(run.ds_config.read_text()),
            "world_size": ranks.world_size,
        }
        trackers.append(WeightsAndBiases(recipe, run, config, resumed.get("wandb_id")))
    return _Several(trackers)
