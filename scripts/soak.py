"""Kills a run at random moments, again and again, and compares its end with that of a run left in peace.

python scripts/soak.py [--rounds 200] [--minutes M] [--ranks 2] [--seed 0] [--folder DIR] [KEY.SUB=VALUE ...]

In each round a tiny model's run is started, or gone on with, and hit at a random moment: one rank or all of them
are killed (SIGKILL), or asked to stop (SIGTERM). When a run gets to its end, it must be the same as the one left
in peace, bit for bit: model, masks, moments, random states and log; then the next one begins. The exit code is
1 if anything was lost.
"""

import argparse
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

from dsprune.checkpoint.tags import complete_tags
from dsprune.testing.compare import differences
from dsprune.testing.forked import ForkedRanks
from dsprune.testing.tiny import tiny_bert, tiny_sentiment, write_recipe
from dsprune.train.run_folder import RunFolder

PLACES = {
    "save_checkpoint": "saving a checkpoint",
    "save_model": "saving the model",
    "evaluate": "evaluating",
    "_select": "in a mask update",
    "restore": "loading a checkpoint",
    "assemble": "starting",
    "_loop": "training",
    "_finish": "at the end",
}
"""What a rank is doing, by a function that it is in."""

STARTING = 1 / 3
"""Share of the rounds that may be hit before their first step: what comes then is short, and more is at stake."""

ACTS = ("SIGKILL of one rank", "SIGKILL of all ranks", "SIGTERM to one rank", "SIGTERM to all ranks")


class Times(NamedTuple):
    """Seconds from the start of a run to its first steps, and to its end."""

    begin: float
    end: float


@dataclass
class Tally:
    """What came of the rounds."""

    hits: Counter[tuple[str, str]] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    seconds_to_stop: list[float] = field(default_factory=list)
    finished: int = 0
    identical: int = 0


def main() -> int:
    """Do the rounds and print what came of them."""
    args = _arguments()
    folder = Path(args.folder or tempfile.mkdtemp(prefix="soak-"))
    recipe = _write_recipe(folder)
    dice, tally, console = random.Random(args.seed), Tally(), Console()
    ForkedRanks(["schema"], 1, folder / "logs" / "first").wait()  # the first start waits for the imports
    started = time.monotonic()
    times = _peace(folder, recipe, args)
    for number in track(range(args.rounds), "rounds", console=Console(stderr=True)):
        if time.monotonic() - started > 60 * args.minutes:
            args.rounds = number
            break
        try:
            _round(folder, recipe, args, dice, times, tally)
        except Exception as error:  # whatever it is, it is told, and the other rounds go on
            tally.lost.append(f"round {number}: {type(error).__name__}: {error}")
            shutil.rmtree(folder / "runs" / "soaked", ignore_errors=True)
    _print(tally, args, console)
    return 1 if tally.lost else 0


def _peace(folder: Path, recipe: Path, args: argparse.Namespace) -> Times:
    """Make the run that is left in peace."""
    run, started = RunFolder(folder / "runs" / "peace"), time.monotonic()
    ranks = _start(folder, recipe, "peace", args)
    while not run.metrics.exists() and ranks.processes[0].exitcode is None:
        time.sleep(0.01)
    begin = time.monotonic() - started
    assert set(ranks.wait()) == {0}, ranks.said()
    return Times(begin, time.monotonic() - started)


def _round(
    folder: Path, recipe: Path, args: argparse.Namespace, dice: random.Random, times: Times, tally: Tally
) -> None:
    """Start or go on, hit once, and look at what is left."""
    run, before = RunFolder(folder / "runs" / "soaked"), _newest_step(folder)
    ranks = _start(folder, recipe, "soaked", args)
    earliest = 0 if dice.random() < STARTING else times.begin
    deadline = time.monotonic() + dice.uniform(earliest, times.end)
    while time.monotonic() < deadline and any(process.exitcode is None for process in ranks.processes):
        time.sleep(0.002)
    act = dice.choice(ACTS)
    victims = [dice.randrange(args.ranks)] if "one" in act else list(range(args.ranks))
    place = next((PLACES[name] for name in ranks.whereabouts(victims[0]) if name in PLACES), "starting")
    if all(process.exitcode is not None for process in ranks.processes):
        place = "had ended"
    hit = time.monotonic()
    ranks.signal(signal.SIGKILL if "KILL" in act else signal.SIGTERM, victims)
    codes = ranks.wait(120)
    tally.hits[place, act] += 1
    if None in codes:
        where = [
            line for rank in range(args.ranks) for line in ranks.said(rank).splitlines() if "hangs in" in line
        ]
        raise RuntimeError(f"{act}, {place}: a rank hung: {codes}: {'; '.join(where)}")
    if "TERM" in act and set(codes) == {75} and place == "training":
        tally.seconds_to_stop.append(time.monotonic() - hit)
    if _newest_step(folder) < before:
        raise RuntimeError(
            f"{act}, {place}: step {before} was saved, and only {_newest_step(folder)} is left"
        )
    if not run.summary.exists():
        return
    tally.finished += 1
    if found := list(differences(RunFolder(folder / "runs" / "peace"), run)):
        raise RuntimeError(f"{act}, {place}: the end is not the same: {found[0]}")
    tally.identical += 1
    shutil.rmtree(run.path)


def _start(folder: Path, recipe: Path, name: str, args: argparse.Namespace) -> ForkedRanks:
    words = ["train", str(recipe), f"name={name}", *args.values]
    return ForkedRanks(words, args.ranks, folder / "logs" / name)


def _newest_step(folder: Path) -> int:
    tags = complete_tags(folder / "runs" / "soaked" / "checkpoints")
    return int(tags[0].name.removeprefix("global_step")) if tags else 0


def _write_recipe(folder: Path) -> Path:
    """40 steps with dropout, three mask updates, a checkpoint every 4 steps and an evaluation every 5."""
    data = tiny_sentiment(folder / "data", 320, 64)
    tracking = {"log_every": 3, "eval_every": 5}
    bert = tiny_bert(folder / "bert")
    return write_recipe(folder / "tiny.yaml", bert, data, checkpoints={"every": 4}, tracking=tracking)


def _print(tally: Tally, args: argparse.Namespace, console: Console) -> None:
    table = Table("hit while", *ACTS, title=f"{args.rounds} rounds on {args.ranks} ranks, seed {args.seed}")
    for column in table.columns[1:]:
        column.justify = "right"
    for place in dict.fromkeys(place for place, _ in tally.hits):
        table.add_row(place, *(str(tally.hits[place, act] or "") for act in ACTS))
    console.print(table)
    console.print(
        f"{tally.identical} of {tally.finished} runs that got to their end were identical bit for bit"
    )
    if tally.seconds_to_stop:
        median, most = statistics.median(tally.seconds_to_stop), max(tally.seconds_to_stop)
        console.print(
            f"from SIGTERM in training to exit 75: median {median:.2f} s, longest {most:.2f} s "
            f"({len(tally.seconds_to_stop)} times)"
        )
    console.print(f"{args.rounds - len(tally.lost)} of {args.rounds} rounds survived")
    for line in tally.lost:
        console.print(f"lost: {line}", markup=False, soft_wrap=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no round after so long")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where the runs are; else a temporary folder")
    parser.add_argument("values", nargs="*", help="recipe values, such as deepspeed=zero3 precision=bf16")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
