"""Compare dsprune with other pruning libraries, on layers of BERT-base's size; one thread, some minutes, 8 GB.

python scripts/bench_peers.py [--layers 12] [--hidden 768] [--repeats 3]

Makes an environment in the cache folder, which also uses the packages of this one, installs the peers there, and
measures in it. A peer that cannot be installed or imported is named in the table with the reason. Needs Linux. Times
are CPU time, the shortest of several runs, and only valid on an idle machine.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from bench.peers import PEERS, Layers, Peer
from bench.selection import encoder, groups_of
from bench.simulation import cost_of
from bench_core import machine
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.optim import AdamW, Optimizer

from dsprune.model.shard import PrunableTensor
from dsprune.utils.installation import cache_folder

PACKAGES = {"nncf": "3.4.0", "torchao": "0.18.0"}
TOKENS = 16
STEPS = 4  # of each kind in a repeat; the first one warms up

COLUMNS = (
    "library", "package", "scope", "update, ms", "of dsprune", "dense step, ms", "added, ms", "of dsprune",
    "temporary, MB", "held, B per weight", "zeros - target", "pruned, not zero as stored",
)  # fmt: skip

# A line of a .pth file: makes the packages of another environment importable, also those installed as editable.
PARENT = "import site; site.addsitedir({!r})\n"


class Figures(NamedTuple):
    """The measurements of one library.

    Attributes:
        update: CPU milliseconds of a mask update.
        dense: CPU milliseconds of a training step without masks.
        added: CPU milliseconds that masks add to it.
        temporary: peak bytes of the update, including its result.
        held: bytes of masks and copies of the weights.
        pruned: number of pruned weights.
        regrown: number of pruned weights whose stored value is not zero after the steps.
    """

    update: float
    dense: float
    added: float
    temporary: int
    held: int
    pruned: int
    regrown: int


def measure(kind: type[Peer], tensors: Sequence[PrunableTensor]) -> Figures:
    """Train dense layers, prune them, and train on."""
    gc.collect()
    torch.manual_seed(0)
    model, inputs = Layers(tensors), torch.randn(TOKENS, tensors[0].shape[1])
    optimizer = AdamW(model.parameters(), lr=1e-4, fused=True)
    dense, _ = shortest_step(Peer(model, tensors, optimizer), optimizer, inputs)
    peer = kind(model, tensors, optimizer)
    seconds, temporary = cost_of(peer.update)
    sparse, masking = shortest_step(peer, optimizer, inputs)
    added = sparse - dense if peer.in_forward else masking
    zeros = sum(int((weight == 0).sum()) for weight in peer.weights)
    pruned = peer.num_pruned()
    return Figures(1000 * seconds, dense, added, temporary, peer.held_bytes(), pruned, max(0, pruned - zeros))


def shortest_step(peer: Peer, optimizer: Optimizer, inputs: Tensor) -> tuple[float, float]:
    """Return the shortest CPU milliseconds of a training step, and of its masking, after the first one."""
    steps, maskings = [], []
    for _ in range(STEPS):
        start = time.process_time()
        peer.model(inputs).square().mean().backward()
        before = time.process_time()
        peer.before_step()
        maskings.append(1000 * (time.process_time() - before))
        optimizer.step()
        optimizer.zero_grad()
        steps.append(1000 * (time.process_time() - start))
    return min(steps[1:]), min(maskings[1:])


def best(found: Sequence[Figures]) -> Figures:
    """Return the best of some repeats, whose counts are equal."""
    return Figures(*(min(values) for values in zip(*found, strict=True)))


def comparison(
    kinds: Sequence[type[Peer]], tensors: Sequence[PrunableTensor], repeats: int, reasons: dict[str, str]
) -> Table:
    """Return the table of all libraries; `reasons` has the reason for each package that could not be installed."""
    weights = sum(tensor.numel for tensor in tensors)
    table = Table(title=f"{weights:,} weights in {len(tensors)} linear layers, 90 %, fp32, fused AdamW")
    for place, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if place > 2 else "left", overflow="fold")
    ours: dict[str, Figures] = {}
    for kind in kinds:
        try:
            figures = best([measure(kind, tensors) for _ in range(repeats)])
        except ImportError as error:
            reason = reasons.get(kind.package) or error
            table.add_row(kind.label, f"{kind.package}: not measured: {reason}", kind.scope)
            continue
        target = sum(group.num_pruned for group in groups_of(tensors, kind.scope))
        compared = cells(figures, ours.setdefault(kind.scope, figures), weights, target)
        table.add_row(kind.label, kind.installed(), kind.scope, *compared)
    return table


def cells(figures: Figures, ours: Figures, weights: int, target: int) -> tuple[str, ...]:
    """Return a library's cells; `ours` are dsprune's figures in the same scope."""
    return (
        f"{figures.update:,.0f}",
        f"{figures.update / ours.update:.1f} x",
        f"{figures.dense:,.0f}",
        f"{figures.added:,.0f}",
        f"{figures.added / ours.added:.1f} x",
        f"{figures.temporary / 1e6:,.0f}",
        f"{figures.held / weights:.3f}",
        f"{figures.pruned - target:+,}",
        f"{figures.regrown / figures.pruned:.0%}",
    )


def prepare(folder: Path) -> tuple[str, dict[str, str]]:
    """Make the environment if it is missing, and install the peers; return its interpreter, and the failures."""
    python = str(folder / "bin" / "python")
    if reason := failure(sys.executable, "-m", "venv", str(folder)):
        return sys.executable, dict.fromkeys(PACKAGES, reason)
    parents = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    [site] = folder.glob("lib/python*/site-packages")
    (site / "parent.pth").write_text("".join(map(PARENT.format, parents)))
    constraints = folder / "constraints.txt"  # do not install another torch with the peers
    constraints.write_text(f"torch=={torch.__version__}\n")
    install = (
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-compile",
        "--disable-pip-version-check",
        "-c",
        str(constraints),
    )
    return python, {name: failure(*install, f"{name}=={number}") for name, number in PACKAGES.items()}


def failure(*command: str) -> str:
    """Run a command; if it fails, return its last line, otherwise None."""
    done = subprocess.run(command, capture_output=True, text=True)
    lines = (done.stdout + done.stderr).split("\n")
    return next((line for line in reversed(lines) if line.strip()), "no message") if done.returncode else ""


def main() -> None:
    """Restart in the environment of the peers, then measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="encoder layers, of six matrices each")
    parser.add_argument("--hidden", type=int, default=768, help="their width")
    parser.add_argument("--repeats", type=int, default=3, help="number of runs; the best one counts")
    parser.add_argument("--reasons", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reasons is None:
        print("preparing the environment of the peers", file=sys.stderr)
        python, reasons = prepare(cache_folder() / "peers-{}.{}".format(*sys.version_info))
        os.execv(python, [python, *sys.argv, "--reasons", json.dumps(reasons)])
    warnings.simplefilter("ignore")  # of the peers
    torch.set_num_threads(1)
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(machine())
    console.print(comparison(PEERS, encoder(args.layers, args.hidden), args.repeats, args.reasons))


if __name__ == "__main__":
    main()
