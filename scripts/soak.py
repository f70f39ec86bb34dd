"""Interrupt a run at random moments, again and again, and compare its result with that of an uninterrupted run.

python scripts/soak.py [--rounds 200] [--minutes M] [--ranks 2] [--seed 0] [--folder DIR] [KEY.SUB=VALUE ...]

Each round starts or resumes the run of a tiny model and interrupts it at a random moment of its start, of a step or of
its end: one rank or all ranks are killed (SIGKILL) or stopped (SIGTERM). A run that finishes must be identical to the
uninterrupted one, bit for bit, in model, masks, moments, random states and log; then the next run begins. The exit code
is 1 if a round failed.
"""

import argparse
import json
import os
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
from dsprune.engine.engine import PruningEngine
from dsprune.engine.pruner import Pruner
from dsprune.testing.compare import differences
from dsprune.testing.forked import ForkedRanks
from dsprune.testing.tiny import tiny_bert, tiny_sentiment, write_recipe
from dsprune.train import train
from dsprune.train.evaluation import evaluate
from dsprune.train.resume import restore
from dsprune.train.run_folder import RunFolder
from dsprune.train.setup import assemble

ACTIVITIES = {
    function.__name__: activity
    for function, activity in (
        (PruningEngine.save_checkpoint, "saving a checkpoint"),
        (PruningEngine.save_model, "saving the model"),
        (evaluate, "evaluating"),
        (Pruner._select, "in a mask update"),
        (restore, "loading a checkpoint"),
        (assemble, "starting"),
        (train._take_steps, "training"),
        (train._finish, "at the end"),
    )
}
"""The activity of a rank, by the name of a function on its stack."""

STARTING, ENDING = 1 / 4, 1 / 8
"""Fractions of the rounds that are interrupted before their first step and after their last one."""

STEPS = 40

SIGNALS = ("SIGKILL of one rank", "SIGKILL of all ranks", "SIGTERM to one rank", "SIGTERM to all ranks")


class Times(NamedTuple):
    """Seconds of the start of a run, of all its steps, and of its end."""

    start: float
    steps: float
    end: float


@dataclass
class Tally:
    """The results of the rounds.

    Attributes:
        interruptions: number of rounds by activity and signal.
        failures: a line for each round that failed.
        seconds_to_stop: from SIGTERM in training to exit 75.
        finished: number of runs that finished.
        identical: number of them that were identical to the uninterrupted run.
    """

    interruptions: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds_to_stop: list[float] = field(default_factory=list)
    finished: int = 0
    identical: int = 0


def main() -> int:
    """Do the rounds and print their results."""
    args = _arguments()
    folder = Path(args.folder or tempfile.mkdtemp(prefix="soak-"))
    recipe = _write_recipe(folder)
    dice, tally, console = random.Random(args.seed), Tally(), Console()
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # DeepSpeed imports torch's compiler, which takes half of a start
    ForkedRanks(["schema"], 1, folder / "logs" / "first").wait()  # the first start waits for the imports
    started = time.monotonic()
    times = _uninterrupted(folder, recipe, args)
    for number in track(range(args.rounds), "rounds", console=Console(stderr=True)):
        if time.monotonic() - started > 60 * args.minutes:
            args.rounds = number
            break
        try:
            _round(folder, recipe, args, dice, times, tally)
        except Exception as error:  # any error fails this round only
            tally.failures.append(f"round {number}: {type(error).__name__}: {error}")
            shutil.rmtree(folder / "runs" / "interrupted", ignore_errors=True)
    _print(tally, args, console)
    return 1 if tally.failures else 0


def _uninterrupted(folder: Path, recipe: Path, args: argparse.Namespace) -> Times:
    """Run without interruption; return the times of the run."""
    run, started = RunFolder(folder / "runs" / "uninterrupted"), time.monotonic()
    ranks = _start(folder, recipe, "uninterrupted", args)
    passed = []
    for step in (1, STEPS):
        _wait_for_step(ranks, run, step)
        passed.append(time.monotonic() - started)
    assert set(ranks.wait()) == {0}, ranks.said()
    return Times(passed[0], passed[1] - passed[0], time.monotonic() - started - passed[1])


def _wait_for_moment(ranks: ForkedRanks, run: RunFolder, dice: random.Random, times: Times) -> None:
    """Wait for a random moment of the start, of a step that no earlier round has taken, or of the end."""
    phase, saved = dice.random(), _newest_step(run)
    step = STEPS if phase > 1 - ENDING or saved == STEPS else dice.randrange(saved, STEPS) + 1
    step, seconds = (0, times.start) if phase < STARTING else (step, times.steps / STEPS)
    if step:
        _wait_for_change(ranks, run)  # until then the log has steps that are repeated
    _wait_for_step(ranks, run, step)
    deadline = time.monotonic() + dice.uniform(0, times.end if step == STEPS else seconds)
    while time.monotonic() < deadline and _any_runs(ranks):
        time.sleep(0.002)


def _wait_for_change(ranks: ForkedRanks, run: RunFolder) -> None:
    """Wait until the log is cut at the checkpoint or grows again."""
    changed = _changed(run)
    while _changed(run) == changed and _any_runs(ranks):
        time.sleep(0.005)


def _changed(run: RunFolder) -> int:
    return run.metrics.stat().st_mtime_ns if run.metrics.exists() else 0


def _wait_for_step(ranks: ForkedRanks, run: RunFolder, step: int) -> None:
    while _logged_step(run) < step and _any_runs(ranks):
        time.sleep(0.005)


def _logged_step(run: RunFolder) -> int:
    """Return the newest step in the log of a run; 0 if there is none."""
    lines = run.metrics.read_text().splitlines(keepends=True) if run.metrics.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


def _any_runs(ranks: ForkedRanks) -> bool:
    return any(process.exitcode is None for process in ranks.processes)


def _round(
    folder: Path, recipe: Path, args: argparse.Namespace, dice: random.Random, times: Times, tally: Tally
) -> None:
    """Start or resume the run, interrupt it once, and check the checkpoints or the result."""
    run = RunFolder(folder / "runs" / "interrupted")
    before = _newest_step(run)
    ranks = _start(folder, recipe, "interrupted", args)
    _wait_for_moment(ranks, run, dice, times)
    sent = dice.choice(SIGNALS)
    victims = [dice.randrange(args.ranks)] if "one" in sent else list(range(args.ranks))
    stack = ranks.stack(victims[0])
    activity = next(
        (ACTIVITIES[name] for name in stack if name in ACTIVITIES), "starting" if stack else "not known"
    )
    if not _any_runs(ranks):
        activity = "after the end"
    interrupted = time.monotonic()
    ranks.signal(signal.SIGKILL if "KILL" in sent else signal.SIGTERM, victims)
    codes = ranks.wait(120)
    tally.interruptions[activity, sent] += 1
    if None in codes:
        where = [
            line for rank in range(args.ranks) for line in ranks.said(rank).splitlines() if "hangs in" in line
        ]
        raise RuntimeError(f"{sent}, {activity}: a rank hung: {codes}: {'; '.join(where)}")
    if "TERM" in sent and set(codes) == {75} and activity == "training":
        tally.seconds_to_stop.append(time.monotonic() - interrupted)
    if (now := _newest_step(run)) < before:
        raise RuntimeError(
            f"{sent}, {activity}: step {before} was saved, but the newest checkpoint is now {now}"
        )
    if not run.summary.exists():
        return
    tally.finished += 1
    if found := list(differences(RunFolder(folder / "runs" / "uninterrupted"), run)):
        raise RuntimeError(f"{sent}, {activity}: not identical to the uninterrupted run: {found[0]}")
    tally.identical += 1
    shutil.rmtree(run.path)


def _start(folder: Path, recipe: Path, name: str, args: argparse.Namespace) -> ForkedRanks:
    words = ["train", str(recipe), f"name={name}", *args.values]
    return ForkedRanks(words, args.ranks, folder / "logs" / name)


def _newest_step(run: RunFolder) -> int:
    tags = complete_tags(run.checkpoints)
    return int(tags[0].name.removeprefix("global_step")) if tags else 0


def _write_recipe(folder: Path) -> Path:
    """Write a recipe of `STEPS` steps with dropout, 3 mask updates, a checkpoint every 4 and an evaluation every 5."""
    data = tiny_sentiment(folder / "data", 320, 64)
    tracking = {"log_every": 1, "eval_every": 5}
    bert = tiny_bert(folder / "bert")
    return write_recipe(folder / "tiny.yaml", bert, data, checkpoints={"every": 4}, tracking=tracking)


def _print(tally: Tally, args: argparse.Namespace, console: Console) -> None:
    table = Table(
        "interrupted while", *SIGNALS, title=f"{args.rounds} rounds on {args.ranks} ranks, seed {args.seed}"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for activity in dict.fromkeys(activity for activity, _ in tally.interruptions):
        table.add_row(activity, *(str(tally.interruptions[activity, sent] or "") for sent in SIGNALS))
    console.print(table)
    console.print(
        f"{tally.identical} of {tally.finished} finished runs were identical, bit for bit, to the uninterrupted run"
    )
    if tally.seconds_to_stop:
        median, most = statistics.median(tally.seconds_to_stop), max(tally.seconds_to_stop)
        console.print(
            f"from SIGTERM in training to exit 75: median {median:.2f} s, longest {most:.2f} s "
            f"({len(tally.seconds_to_stop)} times)"
        )
    console.print(f"{args.rounds - len(tally.failures)} of {args.rounds} rounds survived")
    for line in tally.failures:
        console.print(f"failed: {line}", markup=False, soft_wrap=True)


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
