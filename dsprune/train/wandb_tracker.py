"""A run at Weights & Biases; the only module that imports its client."""

import os
from collections.abc import Callable
from typing import Any

import wandb
from wandb.errors import CommError

from dsprune.recipe import Recipe
from dsprune.train.run_folder import RunFolder
from dsprune.train.stopping import EXIT_CODE
from dsprune.train.tracking import Result, Tracker

__all__ = ["WeightsAndBiases"]

PATIENCE: dict[str, Any] = {"init_timeout": 15, "finish_timeout": 120}
"""Seconds to wait for the server at the start, and at the end for what is still to be sent; nothing waits else."""


class WeightsAndBiases(Tracker):
    """Offline where there is no key or no network, unless WANDB_MODE says otherwise; `wandb sync` sends it later."""

    def __init__(
        self, recipe: Recipe, run: RunFolder, config: dict[str, Any], resumed_id: str | None
    ) -> None:
        """Begins a run, or goes on with the one that has the id."""
        self._log_model, self._is_lost = recipe.tracking.log_model, False
        online = "WANDB_MODE" in os.environ or wandb.login(prompt=False, verify=False)
        settings: dict[str, Any] = {
            "project": recipe.tracking.project,
            "group": recipe.tracking.group,
            "name": recipe.tracking.run or recipe.name,
            "tags": recipe.tracking.tags,
            "config": config,
            "allow_val_change": True,  # a run may go on with another number of ranks
            "dir": run.path,
            "id": resumed_id,
            "resume": "allow" if resumed_id else None,
            "settings": _patience(),
        }
        try:
            self._run = wandb.init(**settings, mode=None if online else "offline")
        except CommError as error:
            reason = str(error).splitlines()[0]
            wandb.termwarn(f"{reason}: this run is kept offline; send it later with `wandb sync`")
            self._run = wandb.init(**settings, mode="offline")

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Hand over the values; they are sent in the background."""
        self._tell(lambda: self._run.log(values, step=step))

    def state(self) -> dict[str, Any]:
        """The id, by which a later process goes on with this run."""
        return {"wandb_id": self._run.id}

    def finish(self, step: int, result: Result) -> None:
        """Record summary and table of tensors, and the model as an artifact if the recipe says so."""
        self._tell(lambda: self._finish(step, result))

    def close(self, exit_code: int = 0) -> None:
        """Send what is left, for as long as patience lasts."""
        if exit_code == EXIT_CODE:
            self._tell(self._run.mark_preempting)
        self._tell(lambda: self._run.finish(exit_code))

    def _finish(self, step: int, result: Result) -> None:
        self._run.summary.update(result.summary)
        rows = [[name, sparsity] for name, sparsity in result.tensor_sparsity.items()]
        self._run.log({"tensors": wandb.Table(columns=["tensor", "sparsity"], data=rows)}, step=step)
        if self._log_model:
            artifact = wandb.Artifact(f"model-{self._run.id}", type="model", metadata=result.summary)
            artifact.add_dir(str(result.model))
            self._run.log_artifact(artifact)

    def _tell(self, tell: Callable[[], object]) -> None:
        """Rather lose the tracker than the run.

        The client's second process dies of a signal to all processes of a job, which the ranks outlive to save.
        """
        if self._is_lost:
            return
        try:
            tell()
        except Exception as error:  # whatever the client has come to raise
            self._is_lost = True
            wandb.termwarn(
                f"{type(error).__name__}: {error}: no more is logged here; metrics.jsonl has it all"
            )


def _patience() -> wandb.Settings:
    """Ours, unless the environment says otherwise, with WANDB_INIT_TIMEOUT for example."""
    return wandb.Settings(**{k: v for k, v in PATIENCE.items() if f"WANDB_{k.upper()}" not in os.environ})
