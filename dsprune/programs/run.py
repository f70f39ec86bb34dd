"""The folder of a run: what lies where."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsprune.errors import UserError
from dsprune.pure.files import replace_text
from dsprune.pure.recipe import Recipe, dump_recipe

__all__ = ["RunFolder"]


@dataclass(frozen=True)
class RunFolder:
    """`OUTPUT/NAME/`.

    It holds recipe.yaml, ds_config.json, metrics.jsonl, status.json, checkpoints/, model/ and summary.json.
    """

    path: Path

    @property
    def recipe(self) -> Path:
        """The recipe as resolved, defaults filled in."""
        return self.path / "recipe.yaml"

    @property
    def ds_config(self) -> Path:
        """The DeepSpeed config as resolved, without any "auto"."""
        return self.path / "ds_config.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: training metrics, evaluations, events."""
        return self.path / "metrics.jsonl"

    @property
    def status(self) -> Path:
        """Where the run stands, see `dsprune.programs.status_file`."""
        return self.path / "status.json"

    @property
    def checkpoints(self) -> Path:
        """DeepSpeed checkpoints, the masks in each tag's folder."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The Hugging Face model, with its masks."""
        return self.path / "model"

    @property
    def summary(self) -> Path:
        """What came out; only a finished run has one."""
        return self.path / "summary.json"

    @classmethod
    def for_recipe(cls, recipe: Recipe) -> "RunFolder":
        """The folder that a run of this recipe has.

        Raises:
            UserError: a run was finished there already.
        """
        run = cls(Path(recipe.output) / recipe.name)
        if run.summary.exists():
            raise UserError(
                f"{run.path}: holds a finished run: give another name=... or output=..., or remove it"
            )
        return run

    def begin(self, recipe: Recipe, ds_config: dict[str, Any]) -> None:
        """Make the folder and write down what is about to be run; what an unfinished run left is replaced."""
        self.path.mkdir(parents=True, exist_ok=True)
        replace_text(self.recipe, dump_recipe(recipe))
        replace_text(self.ds_config, json.dumps(ds_config, indent=2) + "\n")
        self.metrics.unlink(missing_ok=True)

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary, which marks the run as finished."""
        replace_text(self.summary, json.dumps(summary, indent=2) + "\n")
