"""Measure distillation from a store: steps, reading, memory, sizes, capture, on the demo's model; one thread.

python scripts/bench_distill.py [--only {sizes,step,reads,memory,capture,finding,start} ...] [--repeats 10]

Needs data/minilm and data/sentiment (python scripts/fetch_demo_data.py), 2 GB of disk there, and some minutes. The
goals are ratios; times are only valid on an idle machine. The memory section makes a memory cgroup if this is
permitted.
"""

import argparse
import logging
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path

import torch
from bench.distill import captures, training_steps
from bench.figures import Row, table_of
from bench.index import finding
from bench.start import starts
from bench.stores import batch_reads, memory, sizes
from bench_core import machine
from rich.console import Console

from dsprune.ranks.ranks import find_ranks
from dsprune.utils.console import quiet_libraries
from dsprune.zero.launch import join_ranks

SECTIONS = ("sizes", "step", "reads", "memory", "capture", "finding", "start")


def measure(
    sections: list[str], repeats: int, records: int, folder: Path, console: Console
) -> list[tuple[str, list[Row]]]:
    """Return the rows of each section; some measure a step first, to give a fraction of it."""
    found: list[tuple[str, list[Row]]] = []
    steps = cache(lambda: training_steps(folder, repeats))
    for section in sections:
        console.print(f"measuring: {section}", style="dim")
        if section == "sizes":
            rows = sizes()
        elif section == "finding":
            rows = finding(records, steps()[1])
        elif section == "start":
            rows = starts(str(folder / "runs"), max(1, repeats // 3))
        elif section == "memory":
            rows = memory()
        elif section == "capture":
            rows = captures(folder, max(2, repeats // 3))
        elif section == "reads":
            rows = batch_reads(steps()[1], repeats)
        else:
            rows = steps()[0]
        found.append((section, rows))
    return found


def main() -> None:
    """Measure the sections and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="the sections to measure"
    )
    parser.add_argument("--repeats", type=int, default=10, help="number of steps and of other repetitions")
    parser.add_argument("--records", type=int, default=1_000_000, help="records of the section `finding`")
    args = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)  # of torch about DeepSpeed
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    ranks = find_ranks()
    quiet_libraries(is_first=ranks.is_first)
    join_ranks(ranks)
    console = Console(width=None if sys.stdout.isatty() else 150)
    with tempfile.TemporaryDirectory(dir="data") as folder:
        found = measure(list(args.only), args.repeats, args.records, Path(folder), console)
    console.print(table_of(machine(), found))


if __name__ == "__main__":
    main()
