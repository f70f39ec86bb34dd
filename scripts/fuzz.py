"""Give the commands damaged and invalid inputs, and check that each succeeds, or ends with one line and exit code 2.

python scripts/fuzz.py [--hours H | --inputs N] [--seed S] [--target NAME ...] [--only NUMBER] [--folder DIR]

The exit code is 1 if an input ended in another way. Each is printed with its target and number, with which `--target`
and `--only` repeat it alone.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dsprune.testing.fuzz.converting import CONVERT_TARGETS
from dsprune.testing.fuzz.files import FILE_TARGETS
from dsprune.testing.fuzz.loop import Tally, fuzz
from dsprune.testing.fuzz.settings import SETTINGS_TARGETS

TARGETS = {**SETTINGS_TARGETS, **CONVERT_TARGETS, **FILE_TARGETS}


def main() -> int:
    """Attempt the targets and print the counts."""
    args = _arguments()
    console, started = Console(width=110), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        tally = fuzz(
            {name: TARGETS[name] for name in args.target or TARGETS},
            Path(args.folder or scratch),
            seed=args.seed,
            inputs=args.inputs,
            seconds=3600 * args.hours,
            only=args.only,
            progress=_Progress(),
        )
    _print(tally, time.monotonic() - started, console)
    return 1 if tally.wrong else 0


class _Progress:
    """Prints each wrong ending on stderr at once."""

    def __init__(self) -> None:
        self._num_shown = 0

    def __call__(self, tally: Tally) -> None:
        for line in tally.wrong[self._num_shown :]:
            print(line, file=sys.stderr, flush=True)
        self._num_shown = len(tally.wrong)


def _print(tally: Tally, seconds: float, console: Console) -> None:
    codes = sorted({code for counts in tally.codes.values() for code in counts}, key=str)
    table = Table("target", "inputs", *(f"exit {code}" for code in codes), "wrong")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, counts in tally.codes.items():
        wrong = sum(line.startswith(f"{name} ") for line in tally.wrong)
        table.add_row(name, f"{tally.inputs[name]:,}", *(f"{counts[code]:,}" for code in codes), str(wrong))
    console.print(table)
    console.print(f"{tally.inputs.total():,} inputs in {seconds / 60:.0f} minutes, {len(tally.wrong)} wrong")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=float("inf"), help="begin no input after so long")
    parser.add_argument("--inputs", type=int, default=200, help="inputs of each target; default 200")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="default: all")
    parser.add_argument("--only", type=int, help="number of the only input")
    parser.add_argument("--folder", help="an empty folder to work in, which is kept; else a temporary one")
    args = parser.parse_args()
    if args.hours < float("inf"):
        args.inputs = float("inf")
    return args


if __name__ == "__main__":
    sys.exit(main())
