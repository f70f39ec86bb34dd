"""Save a checkpoint at every ZeRO stage on 1 to 4 ranks, load it at every other, and print a table of the comparisons.

python scripts/reshard.py [--precision fp32|bf16] [--ranks 4] [--no-offload]

A move is equal if masks, master weights, both moments and the step are those of the saving engine, bit for bit, and the
audit passes. The exit code is 1 if one is not.
"""

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dsprune.testing.pool import RankPool
from dsprune.testing.resharding import Place, load_all, save

Problems = dict[tuple[Place, Place], str | None]
"""The differences, by source and target."""


def main() -> int:
    """Move checkpoints from every place to every place."""
    args = _arguments()
    places = _places(args)
    started, console = time.monotonic(), Console(width=160)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moves-")))
        pools = {
            world: stack.enter_context(RankPool(world)) for world in sorted({place.world for place in places})
        }
        problems = _move(places, pools, home)
    _print(places, problems, console)
    equal = sum(problem is None for problem in problems.values())
    console.print(
        f"{args.precision}: {equal} of {len(problems)} moves are equal ({time.monotonic() - started:.0f} s)"
    )
    return 0 if equal == len(problems) else 1


def _places(args: argparse.Namespace) -> list[Place]:
    """Return the places, those with offload last; there is no optimizer to offload at stage 0."""
    stages = [(stage, offload) for offload in (False, True) for stage in range(4) if stage or not offload]
    if args.no_offload:
        stages = stages[:4]
    return [
        Place(stage, world, offload, args.precision)
        for stage, offload in stages
        for world in range(1, args.ranks + 1)
    ]


def _move(places: list[Place], pools: dict[int, RankPool], home: Path) -> Problems:
    """Save once at each place, and load all checkpoints in one engine at each."""
    folders = [home / str(number) for number in range(len(places))]
    for number, place in enumerate(places):
        folders[number].mkdir()
        pools[place.world].run(place.world, save, place, number, folders[number])
    problems: Problems = {}
    for target in places:
        answers = pools[target.world].run(target.world, load_all, target, folders)
        for source, found in zip(places, zip(*answers, strict=True), strict=True):
            problems[source, target] = next(filter(None, found), None)
    return problems


def _print(places: list[Place], problems: Problems, console: Console) -> None:
    title = "from row to column: ZeRO stage x ranks, c = optimizer on the CPU"
    table = Table("", *map(str, places), title=title, box=None, padding=(0, 1, 0, 0))
    for source in places:
        table.add_row(str(source), *("=" if problems[source, target] is None else "X" for target in places))
    console.print(table)
    for (source, target), problem in problems.items():
        if problem is not None:
            console.print(f"{source} -> {target}: {problem}", markup=False, soft_wrap=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--ranks", type=int, default=4, help="the largest number of ranks; default 4")
    parser.add_argument(
        "--no-offload", action="store_true", help="leave out the places with an offloaded optimizer"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
