"""The folder of a run: its paths, its lock, its start and its end."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dsprune.checkpoint.made import Made
from dsprune.errors import UserError
from dsprune.recipe import Recipe, dump_recipe, load_recipe
from dsprune.schedule import Timetable
from dsprune.train.run_records import read_start, read_summary
from dsprune.utils.files import lock_folder, remove, replace_text
from dsprune.utils.installation import command_line, versions

__all__ = ["RunFolder", "made_by"]


class RunFolder:
    """The folder of a run, `OUTPUT/NAME/`.

    Attributes:
        path: the folder.
        recipe: the resolved recipe, with all defaults.
        ds_config: the resolved DeepSpeed config, without "auto".
        vocabulary: the tokens whose embedding rows are trained, with `model.vocabulary: used`; see `Vocabulary`.
        start: command, versions and timetable of the newest start.
        metrics: training metrics, evaluations and mask updates, one JSON object per line.
        status: state and progress of the run, see `dsprune.train.status_file`.
        checkpoints: DeepSpeed checkpoints, with the masks in each tag's folder.
        model: the Hugging Face model, with its masks.
        report: the report, an HTML page.
        summary: the results; only a finished run has them.
        stop_file: a file whose existence asks the run to stop.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.ds_config = path / "ds_config.json"
        self.vocabulary = path / "vocabulary.json"
        self.start = path / "start.json"
        self.metrics = path / "metrics.jsonl"
        self.status = path / "status.json"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.report = path / "report.html"
        self.summary = path / "summary.json"
        self.stop_file = path / "stop"

    def unfinished(self) -> "RunFolder":
        """Return this folder, unless its run is finished.

        Raises:
            UserError: the folder holds a finished run, or some of its files are links.
        """
        if self.summary.exists():
            raise UserError(
                f"{self.path}: holds a finished run: give another name=... or output=..., or remove it"
            )
        self.check_own()
        return self

    def check_exists(self) -> None:
        """Check that the folder was not removed while the run uses it.

        Raises:
            UserError: the folder was removed.
        """
        if not self.recipe.is_file():
            raise UserError(
                f"{self.path}: was removed or emptied while the run used it: run the command again"
            )

    def check_own(self) -> None:
        """Check that the run's files are not links, because the run truncates, replaces and removes them.

        Raises:
            UserError: a file is a symbolic link.
        """
        for path in (self.checkpoints, self.metrics):
            if path.is_symlink():
                raise UserError(
                    f"{path}: is a symbolic link, and the run would remove its target: put the "
                    f"files there, or give an output=... on the other disk"
                )

    def locked(self) -> AbstractContextManager[None]:
        """Return a lock of the folder for this process, see `dsprune.utils.files.lock_folder`."""
        return lock_folder(
            self.path,
            "another run uses this folder: wait for it, stop it with dsprune stop, or give another name=...",
        )

    def begin(self, recipe: Recipe, ds_config: dict[str, Any], *, is_new: bool) -> None:
        """Write the resolved recipe and ds_config. A new run removes metrics and checkpoints of an earlier one."""
        replace_text(self.recipe, dump_recipe(recipe))
        replace_text(self.ds_config, json.dumps(ds_config, indent=2) + "\n")
        if is_new:
            remove(self.metrics)
            remove(self.checkpoints)

    def write_start(
        self, timetable: Timetable, world_size: int, device: str, digests: Mapping[str, str]
    ) -> None:
        """Write command, versions, timetable and digests of the data; a resumed run writes them again."""
        record = {
            "command": command_line(),
            "world_size": world_size,
            "device": device,
            "versions": versions(),
            "timetable": asdict(timetable),
            "data": dict(digests),
        }
        replace_text(self.start, json.dumps(record, indent=2) + "\n")

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary, which marks the run as finished."""
        replace_text(self.summary, json.dumps(summary, indent=2) + "\n")


def made_by(run: RunFolder, *, step: int | None = None, audit: str | None = None) -> Made:
    """Return how a model of a run was made, for its card; empty for a folder that is not a run.

    The metrics are those of the model at the end of the run; `step` is the step of another model. `audit` describes
    the result of the audit.
    """
    if not run.recipe.is_file():
        return Made()
    summary, start = read_summary(run.summary), read_start(run.start)
    if summary is not None and step not in (None, summary.steps):
        summary = None
    return Made(
        recipe=load_recipe(str(run.recipe)),
        command=start.command,
        metrics=summary.metrics if summary else {},
        num_examples=summary.validation_examples if summary else None,
        audit=audit,
        versions=start.versions,
    )
