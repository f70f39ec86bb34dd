"""Measure the cost of pruning on BERT-base, one thread per rank; needs about 8 GB of memory and half an hour.

python scripts/bench_core.py [--only {masks,selection,threads,step,train,checkpoint,launches,device,framework} ...]
                             [--repeats 7] [--ranks 2] [--stages 0 1 2 3] [--precisions fp32 bf16]
                             [--tensors 10 72 200 560]

The section `launches` counts the operations of an accelerator without one; `device` needs a GPU.

Times are the shortest of several runs, and only valid on an idle machine.
"""

import argparse
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch
from bench.checkpoint import checkpoints
from bench.device import on_device
from bench.engine import optimizer_steps, training_steps
from bench.framework import frameworks
from bench.launches import launches
from bench.selection import against_torch, by_ranks, by_threads, masking
from rich.console import Console
from rich.table import Table

SECTIONS = ("masks", "selection", "threads", "step", "train", "checkpoint", "launches", "device", "framework")


def tables(section: str, args: argparse.Namespace) -> Iterator[Table]:
    """Yield the tables of a section, each as soon as it is measured."""
    if section == "masks":
        yield masking(args.repeats)
    if section == "selection":
        yield against_torch(args.repeats)
        yield by_ranks(args.repeats, range(1, args.ranks + 1))
    if section == "threads":
        yield by_threads(args.repeats, sorted({1, 2, os.cpu_count() or 1}))
    if section == "step":
        yield optimizer_steps(args.repeats, args.stages, args.precisions)
    if section == "train":
        yield training_steps(max(args.repeats // 3, 2), args.stages, args.precisions)
    if section == "framework":
        yield frameworks(4 * args.repeats)
    if section == "device":
        yield on_device(args.repeats)
    if section == "launches":
        yield from launches(args.tensors)
    if section == "checkpoint":
        yield checkpoints(range(1, args.ranks + 1), args.stages, args.precisions)


def machine() -> str:
    """Describe the machine: processor, load, torch, threads."""
    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    cpu = models[0] if models else platform.processor()
    load = os.getloadavg()[0]
    return f"{cpu}, {os.cpu_count()} cores, load {load:.1f}; torch {torch.__version__}, one thread a rank"


def main() -> None:
    """Measure and print the sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=SECTIONS[:-1], help="the sections to run"
    )
    parser.add_argument("--repeats", type=int, default=7, help="number of runs; the best one counts")
    parser.add_argument("--ranks", type=int, default=2, help="largest number of ranks")
    parser.add_argument("--stages", nargs="+", type=int, default=(0, 1, 2, 3), help="ZeRO stages")
    parser.add_argument("--tensors", nargs="+", type=int, default=(10, 72, 200, 560), help="of `launches`")
    parser.add_argument("--precisions", nargs="+", default=("fp32", "bf16"), help="fp32, bf16")
    args = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    console.print(machine())
    for section in args.only:
        for table in tables(section, args):
            console.print(table)


if __name__ == "__main__":
    main()
