"""The tracker for Weights & Biases; the only module that imports its client."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wandb
from wandb.errors import CommError

from dsprune.errors import EXIT_STOPPED
from dsprune.recipe import Recipe
from dsprune.train.run_folder import RunFolder
from dsprune.utils.text import first_line

__all__ = ["WeightsAndBiases"]

TIMEOUTS: dict[str, Any] = {"init_timeout": 15, "finish_timeout": 120}
"""Seconds to wait for the server at the start, and at the end until everything is sent. No other call waits."""


class WeightsAndBiases:
    """Records a run at Weights & Biases.

    Without a key or a network the run is recorded offline, unless WANDB_MODE is set; `wandb sync` sends it later.

    Args:
        recipe: its section `tracking` has project, group, name and tags.
        run: the folder of the run.
        config: the configuration to record.
        resumed_id: id of the run to continue; None starts a new one.
    """

    def __init__(
        self, recipe: Recipe, run: RunFolder, config: dict[str, Any], resumed_id: str | None
    ) -> None:
        self._log_model, self._is_lost = recipe.tracking.log_model, False
        self._id = resumed_id
        self._run: Any = None
        settings: dict[str, Any] = {
            "project": recipe.tracking.project,
            "group": recipe.tracking.group,
            "name": recipe.tracking.run or recipe.name,
            "tags": recipe.tracking.tags,
            "config": config,
            "allow_val_change": True,  # a run may be resumed on another number of ranks
            "dir": run.path,
            "id": resumed_id,
            "resume": "allow" if resumed_id else None,
            "settings": _timeouts(),
        }
        self._call(lambda: self._open(settings))

    def _open(self, settings: dict[str, Any]) -> None:
        online = "WANDB_MODE" in os.environ or wandb.login(prompt=False, verify=False)
        try:
            self._run = wandb.init(**settings, mode=None if online else "offline")
        except CommError as error:
            reason = first_line(error)
            wandb.termwarn(f"{reason}: this run is kept offline; send it later with `wandb sync`")
            self._run = wandb.init(**settings, mode="offline")
        self._id = self._run.id

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Queue the values; the client sends them in the background."""
        self._call(lambda: self._run.log(values, step=step))

    def state(self) -> dict[str, Any]:
        """Return the run's id; without one, a resumed run starts a new one."""
        return {} if self._id is None else {"wandb_id": self._id}

    def finish(
        self, step: int, summary: dict[str, Any], tensor_sparsity: dict[str, float], model: Path
    ) -> None:
        """Record the summary, a table of tensors and, if the recipe asks for it, the model as an artifact."""
        self._call(lambda: self._finish(step, summary, tensor_sparsity, model))

    def close(self, exit_code: int = 0) -> None:
        """Send the remaining values, within `TIMEOUTS`."""
        if exit_code == EXIT_STOPPED:
            self._call(lambda: self._run.mark_preempting())
        self._call(lambda: self._run.finish(exit_code))

    def _finish(
        self, step: int, summary: dict[str, Any], tensor_sparsity: dict[str, float], model: Path
    ) -> None:
        self._run.summary.update(summary)
        rows = [[name, sparsity] for name, sparsity in tensor_sparsity.items()]
        self._run.log({"tensors": wandb.Table(columns=["tensor", "sparsity"], data=rows)}, step=step)
        if self._log_model:
            artifact = wandb.Artifact(f"model-{self._run.id}", type="model", metadata=summary)
            artifact.add_dir(str(model))
            self._run.log_artifact(artifact)

    def _call(self, function: Callable[[], object]) -> None:
        """Call the client. After its first error it is not called again, so that the run continues.

        A signal to all processes of a job ends the client's second process, while the ranks still save.
        """
        if self._is_lost:
            return
        try:
            function()
        except Exception as error:  # the client raises errors of many types
            self._is_lost = True
            wandb.termwarn(
                f"{type(error).__name__}: {error}: no more is logged here; metrics.jsonl has it all"
            )


def _timeouts() -> wandb.Settings:
    """Return `TIMEOUTS` without those that the environment sets, by WANDB_INIT_TIMEOUT for example."""
    return wandb.Settings(**{k: v for k, v in TIMEOUTS.items() if f"WANDB_{k.upper()}" not in os.environ})
