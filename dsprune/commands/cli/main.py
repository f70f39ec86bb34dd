"""From the command line to an exit code."""

import errno
import gc
import os
import signal
import sys

import typer

from dsprune.commands.cli.app import app
from dsprune.errors import EXIT_STOPPED, CheckFailedError, RunFailedError, StoppedError, UserError
from dsprune.utils.signals import END_SIGNALS

__all__ = ["main", "run_command"]


def main() -> None:
    """Run the command in `sys.argv`. Exit codes: 0 done, 1 a check failed, 2 bad input, 75 stopped, to be resumed."""
    # Collections would take a fifth of the time of the imports, and find nothing.
    gc.set_threshold(100_000, 50, 50)
    # A terminated process unwinds and removes its temporary files, unless a batch script has it ignore the signal.
    for number in END_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: sys.exit(128 + number))
    sys.exit(run_command(_without_local_rank(sys.argv[1:])))


def run_command(arguments: list[str]) -> int:
    """Run a command in this process, and return its exit code."""
    try:
        return int(app(arguments or ["--help"], prog_name="dsprune", standalone_mode=False) or 0)
    except UserError as error:
        _complain(str(error))
        return 2
    except CheckFailedError as error:
        _complain(str(error))
        return 1
    except RunFailedError as error:  # its reason differs from rank to rank
        print(f"dsprune: rank {os.environ.get('RANK', '0')}: {error}", file=sys.stderr)
        return 1
    except StoppedError as error:
        _complain(str(error))
        return EXIT_STOPPED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"dsprune: {error}: free some space, and run the same command again", file=sys.stderr)
        return 1
    except typer.TyperException as error:
        _complain(error.format_message())
        return 2
    except (typer.Abort, KeyboardInterrupt):
        _complain("interrupted")
        return 130


def _complain(message: str) -> None:
    """Print one line a host, not one a rank."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"dsprune: {message}", file=sys.stderr)


def _without_local_rank(arguments: list[str]) -> list[str]:
    """Remove `--local_rank=N`, which the deepspeed launcher adds; the environment holds it, too."""
    return [argument for argument in arguments if not argument.startswith(("--local_rank", "--local-rank"))]
