"""The record of a run: metrics.jsonl always, Weights & Biases if the recipe asks for it; on rank 0 only."""

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from dsprune.ranks.ranks import Ranks
from dsprune.recipe import Recipe
from dsprune.schedule import Timetable
from dsprune.train.client_state import ClientState
from dsprune.train.run_folder import RunFolder
from dsprune.utils.files import errors_named

__all__ = ["Tracker"]


class Tracker:
    """Records the values of a run; on other ranks than the first it does nothing.

    Args:
        recipe: its section `tracking` says whether to record at Weights & Biases, too.
        run: the folder of the run, which holds the ds_config already.
        timetable: recorded with the recipe.
        ranks: this process among all.
        resumed: client state of the checkpoint that the run resumes from; the defaults for a new run.
    """

    def __init__(
        self, recipe: Recipe, run: RunFolder, timetable: Timetable, ranks: Ranks, resumed: ClientState
    ) -> None:
        self._file: IO[str] | None = None
        self._wandb: Any = None  # a `WeightsAndBiases`, which is slow to import
        if not ranks.is_first:
            return
        self._file = run.metrics.open("a", encoding="utf-8")
        # Later lines are cut off, since the run logs them again.
        self._file.truncate(min(resumed.metrics_bytes, run.metrics.stat().st_size))
        if recipe.tracking.wandb:
            from dsprune.train.wandb_tracker import WeightsAndBiases

            config = {
                **recipe.model_dump(mode="json"),
                "timetable": asdict(timetable),
                "ds_config": json.loads(run.ds_config.read_text(encoding="utf-8")),
                "world_size": ranks.world_size,
            }
            self._wandb = WeightsAndBiases(recipe, run, config, resumed.wandb_id)

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Record values of a step, counted in applied optimizer steps; a killed run keeps what it logged."""
        if self._file is not None:
            finite = {key: _finite(value) for key, value in values.items()}
            with errors_named(Path(self._file.name)):
                self._file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
                self._file.flush()
        if self._wandb is not None:
            self._wandb.log(step, values)

    def state(self) -> dict[str, Any]:
        """Return the fields of `ClientState` from which another tracker continues."""
        size = {} if self._file is None else {"metrics_bytes": os.fstat(self._file.fileno()).st_size}
        return size | ({} if self._wandb is None else self._wandb.state())

    def finish(
        self, step: int, summary: dict[str, Any], tensor_sparsity: dict[str, float], model: Path
    ) -> None:
        """Record the result at the end of the timetable: summary, fraction of zeros by tensor, and model folder."""
        if self._wandb is not None:
            self._wandb.finish(step, summary, tensor_sparsity, model)

    def close(self, exit_code: int = 0) -> None:
        """Close the tracker before the process ends with `exit_code`. Later calls do nothing."""
        if self._file is not None:
            with errors_named(Path(self._file.name)):
                self._file.close()
        if self._wandb is not None:
            self._wandb.close(exit_code)


def _finite(value: Any) -> Any:
    """Replace NaN and inf, which JSON does not have, by their names."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
