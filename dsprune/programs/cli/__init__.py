"""The commands. Each imports what it needs when it is called, so that `--help` is instant."""

from dsprune.programs.cli import running, showing, site
from dsprune.programs.cli.app import app
from dsprune.programs.cli.main import main, run_command

__all__ = ["app", "main", "run_command", "running", "showing", "site"]
