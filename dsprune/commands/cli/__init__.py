"""The command line. Each command imports what it needs when it is called, so that `--help` is fast."""

from dsprune.commands.cli import start, training, results, cluster  # isort: skip  # in the order of `--help`
from dsprune.commands.cli.main import app, main, run_command

__all__ = ["app", "cluster", "main", "results", "run_command", "start", "training"]
