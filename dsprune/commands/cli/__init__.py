"""The commands. Each imports what it needs when it is called, so that `--help` is instant."""

from dsprune.commands.cli import cluster as site
from dsprune.commands.cli import results as showing
from dsprune.commands.cli import training as running
from dsprune.commands.cli.app import app
from dsprune.commands.cli.main import main, run_command

__all__ = ["app", "main", "run_command", "running", "showing", "site"]
