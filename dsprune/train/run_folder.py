"""The folder of a run: what lies where."""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsprune.errors import UserError
from dsprune.recipe import Recipe, dump_recipe
from dsprune.schedule import Timetable
from dsprune.utils.files import replace_text
from dsprune.utils.versions import command_line, versions

__all__ = ["RunFolder", "write_start"]


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
    def start(self) -> Path:
        """Command, versions and timetable that the run began with."""
        return self.path / "start.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: training metrics, evaluations, mask updates."""
        return self.path / "metrics.jsonl"

    @property
    def status(self) -> Path:
        """Where the run stands, see `dsprune.train.status_file`."""
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
    def report(self) -> Path:
        """What happened, as a page for a browser."""
        return self.path / "report.html"

    @property
    def summary(self) -> Path:
        """What came out; only a finished run has one."""
        return self.path / "summary.json"

    @property
    def stop_file(self) -> Path:
        """Whoever makes it asks the run to stop."""
        return self.path / "stop"

    def unfinished(self) -> "RunFolder":
        """This folder, to run in.

        Raises:
            UserError: a run was finished there already.
        """
        if self.summary.exists():
            raise UserError(
                f"{self.path}: holds a finished run: give another name=... or output=..., or remove it"
            )
        return self

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the folder for this process; the kernel lets it go when the process ends, in whatever way.

        Raises:
            UserError: another process is at work there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / ".lock"
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{self.path}: another run is at work in this folder: wait for it, stop it with dsprune stop, "
                    f"or give another name=..."
                ) from None
            except OSError:  # a file system that knows no locks
                pass
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
                with suppress(OSError):  # a run that was refused leaves nothing
                    self.path.rmdir()

    def begin(self, recipe: Recipe, ds_config: dict[str, Any], *, anew: bool) -> None:
        """Write down what is about to be run; `anew` removes what a run left that cannot be gone on with."""
        replace_text(self.recipe, dump_recipe(recipe))
        replace_text(self.ds_config, json.dumps(ds_config, indent=2) + "\n")
        if anew:
            self.metrics.unlink(missing_ok=True)
            shutil.rmtree(self.checkpoints, ignore_errors=True)

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary, which marks the run as finished."""
        replace_text(self.summary, json.dumps(summary, indent=2) + "\n")


def write_start(path: Path, timetable: Timetable, world_size: int, device: str) -> None:
    """Write `start.json`; a run that goes on writes what it goes on with."""
    record = {
        "command": command_line(),
        "world_size": world_size,
        "device": device,
        "versions": versions(),
        "timetable": timetable.to_dict(),
    }
    replace_text(path, json.dumps(record, indent=2) + "\n")
