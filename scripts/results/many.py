"""Run many `dsprune train` commands at once on one GPU, and evaluate their models on the test data.

dsprune suite ... --dry-run | python scripts/results/many.py [--at-once 12] [--seconds 600] [--keep] [--no-test]

Commands `dsprune teacher` are run too. The commands do not wait for each other, so run those that others need first.

A run is forked from a process that has imported everything, so it starts quickly. The processes share the GPU better
if `nvidia-cuda-mps-control -d` runs. Evaluated runs are skipped; with `--no-test` nothing is evaluated, and finished
ones are skipped. Checkpoints and weights of a run are deleted afterwards, except with `--keep`. No run starts after
`--seconds`. The output of the runs goes to runs/logs. The exit code is 1 if a run failed or did not start.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dsprune.testing.forked import ForkedRanks

TEST_MODELS = Path(__file__).parent / "recovery" / "test_models.py"
LARGE = 1 << 18
"""Bytes from which a file is a checkpoint or has weights."""


def folder_of(words: Sequence[str]) -> Path:
    """Return the run folder of a command, from the last values of its arguments `output` and `name`."""
    values = dict(word.split("=", 1) for word in words if "=" in word)
    return Path(values["output"].strip('"'), values["name"])


def run(words: Sequence[str], keep: bool, test: bool) -> bool:
    """Run a command, evaluate the model, and delete large files; return whether all succeeded."""
    folder, log = folder_of(words), Path("runs/logs", *folder_of(words).parts[1:])
    for name, script in ((words[0], None), ("test", TEST_MODELS))[: 2 if test else 1]:
        ranks = ForkedRanks(words if script is None else [str(folder)], 1, log / name, script=script)
        if ranks.wait(timeout=3600) != [0]:
            print(f"failed: {folder}: {ranks.said()[-500:]}", flush=True)
            return False
    print(ranks.printed().strip(), flush=True)
    for path in [] if keep or words[0] != "train" else list(folder.rglob("*")):
        if path.is_file() and path.stat().st_size > LARGE:
            path.unlink()
    return True


def main() -> None:
    """Run the commands of stdin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--at-once", type=int, default=12, help="number of runs at a time")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="time after which no run starts")
    parser.add_argument("--keep", action="store_true", help="keep checkpoints and weights")
    parser.add_argument("--no-test", action="store_true", help="do not evaluate the models on the test data")
    args = parser.parse_args()
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # a process that used CUDA cannot fork
    end = time.monotonic() + args.seconds
    commands = [
        shlex.split(line)[1:] for line in sys.stdin if line.startswith(("dsprune train ", "dsprune teacher "))
    ]
    done_by = "summary.json" if args.no_test else "test.json"
    waiting = [
        words for words in commands if words[0] == "teacher" or not (folder_of(words) / done_by).is_file()
    ]
    print(f"{len(waiting)} of {len(commands)} runs to do", flush=True)
    with ThreadPoolExecutor(args.at_once) as pool:
        done = list(
            pool.map(
                lambda words: time.monotonic() < end and run(words, args.keep, not args.no_test), waiting
            )
        )
    sys.exit(0 if all(done) else 1)


if __name__ == "__main__":
    main()
