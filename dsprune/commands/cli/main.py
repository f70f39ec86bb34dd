"""From the command line to an exit code."""

import errno
import os
import signal
import sys

import typer

from dsprune.commands.cli.app import app
from dsprune.errors import EXIT_STOPPED, CheckFailedError, RunFailedError, StoppedError, UserError

__all__ = ["main", "run_command"]


def main() -> None:
    """Run a command. Exit codes: 0 done, 1 a check failed, 2 bad input, 75 stopped early, to be resumed."""
    # A terminated process unwinds, so that temporary files go; a batch script may keep signals from all but the ranks.
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(run_command(_without_local_rank(sys.argv[1:])))


def run_command(arguments: list[str]) -> int:
    """Run a command in this process; returns its exit code."""
    try:
        return int(app(arguments or ["--help"], prog_name="dsprune", standalone_mode=False) or 0)
    except UserError as error:
        _complain(str(error))
        return 2
    except CheckFailedError as error:
        _complain(str(error))
        return 1
    except RunFailedError as error:  # each rank has a reason of its own
        print(f"dsprune: rank {os.environ.get('RANK', '0')}: {error}", file=sys.stderr)
        return 1
    except StoppedError as error:
        _complain(str(error))
        return EXIT_STOPPED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"dsprune: {error}: make room, and give the same command again", file=sys.stderr)
        return 1
    except typer.TyperException as error:
        _complain(error.format_message())
        return 2
    except (typer.Abort, KeyboardInterrupt):
        _complain("interrupted")
        return 130


def _complain(message: str) -> None:
    """One line on a host, not one a rank."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"dsprune: {message}", file=sys.stderr)


def _without_local_rank(arguments: list[str]) -> list[str]:
    """The deepspeed launcher puts `--local_rank=N` among the arguments; the environment says it too."""
    return [argument for argument in arguments if not argument.startswith(("--local_rank", "--local-rank"))]
