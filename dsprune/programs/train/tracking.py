"""Where a run's numbers go: metrics.jsonl always, Weights & Biases when the recipe asks; from rank 0 only."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from dsprune.distributed.ranks import Ranks
from dsprune.programs.run import RunFolder
from dsprune.pure.recipe import Recipe

__all__ = ["Tracker", "open_tracker"]


class Tracker(Protocol):
    """Takes a run's numbers, by name and step."""

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Record some values that belong to `step`, the clock after the step."""

    def state(self) -> dict[str, Any]:
        """What `open_tracker` needs to go on from here."""

    def close(self) -> None:
        """Record no more."""


class _Nowhere:
    """The tracker of the ranks that do not log."""

    def log(self, step: int, values: dict[str, Any]) -> None:
        return

    def state(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        return


class _JsonLines:
    """One JSON object a line, flushed, so that a killed run keeps what it logged."""

    def __init__(self, path: Path, resumed: Mapping[str, Any]) -> None:
        self._file = path.open("a", encoding="utf-8")
        # What was logged after the checkpoint is logged again.
        self._file.truncate(min(resumed.get("metrics_bytes", 0), path.stat().st_size))

    def log(self, step: int, values: dict[str, Any]) -> None:
        finite = {key: _finite(value) for key, value in values.items()}
        self._file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
        self._file.flush()

    def state(self) -> dict[str, Any]:
        return {"metrics_bytes": os.fstat(self._file.fileno()).st_size}

    def close(self) -> None:
        self._file.close()


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become their names."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class _Wandb:
    """A Weights & Biases run: offline when there is no key, unless WANDB_MODE says otherwise."""

    def __init__(self, recipe: Recipe, run: RunFolder, resumed: Mapping[str, Any]) -> None:
        import wandb  # only runs that ask for it pay for the import

        online = "WANDB_MODE" in os.environ or wandb.login(prompt=False, verify=False)
        self._run = wandb.init(
            project=recipe.tracking.project,
            group=recipe.tracking.group,
            name=recipe.tracking.run or recipe.name,
            tags=recipe.tracking.tags,
            config=recipe.model_dump(mode="json"),
            dir=run.path,
            id=resumed.get("wandb_id"),
            resume="allow" if "wandb_id" in resumed else None,
            mode=None if online else "offline",
        )

    def log(self, step: int, values: dict[str, Any]) -> None:
        self._run.log(values, step=step)

    def state(self) -> dict[str, Any]:
        return {"wandb_id": self._run.id}

    def close(self) -> None:
        self._run.finish()


class _Several:
    def __init__(self, trackers: list[Tracker]) -> None:
        self._trackers = trackers

    def log(self, step: int, values: dict[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.log(step, values)

    def state(self) -> dict[str, Any]:
        return {key: value for tracker in self._trackers for key, value in tracker.state().items()}

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


def open_tracker(recipe: Recipe, run: RunFolder, ranks: Ranks, resumed: Mapping[str, Any]) -> Tracker:
    """The tracker of this rank, which goes on from the `state` that an earlier one had; empty = a new one."""
    if not ranks.is_first:
        return _Nowhere()
    trackers: list[Tracker] = [_JsonLines(run.metrics, resumed)]
    if recipe.tracking.wandb:
        trackers.append(_Wandb(recipe, run, resumed))
    return _Several(trackers)
