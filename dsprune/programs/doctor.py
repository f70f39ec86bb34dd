"""`dsprune doctor`: what this machine can run, one line a check, and the way out where it cannot."""

import netrc
import os
import platform
import resource
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

import torch
from deepspeed.accelerator import get_accelerator
from huggingface_hub.constants import HF_HUB_CACHE, is_offline_mode
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch.utils import cpp_extension

from dsprune.distributed.probe import probe_ranks
from dsprune.engine import ops
from dsprune.engine.ops import find_stale_locks
from dsprune.errors import CheckFailedError

__all__ = ["Finding", "doctor", "find_stale_locks"]

RANKS_TIMEOUT = 120.0  # seconds; starting two Pythons takes ten on a slow disk
LOW_DISK, FULL_DISK = 10e9, 1e9  # bytes; a checkpoint of BERT-base with its optimizer takes 1.3 GB
MIN_OPEN_FILES = 1024

Level = Literal["ok", "warn", "fail"]
STYLES: dict[Level, str] = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True)
class Finding:
    """What one check found, and the way out where something is wrong."""

    check: str
    level: Level
    message: str


def doctor(console: Console, build_ops: bool = False) -> int:
    """Print what this machine can run; return 1 when a check failed, else 0.

    Args:
        console: where the table goes.
        build_ops: compile DeepSpeed's extensions now, before ranks start and collide over them.
    """
    with console.status("looking at this machine"):
        findings = [check() for check in _checks(build_ops)]
    table = Table("check", "", "found", box=None, pad_edge=False)
    for finding in findings:
        table.add_row(finding.check, Text(finding.level, STYLES[finding.level]), Text(finding.message))
    console.print(table)
    return int(any(finding.level == "fail" for finding in findings))


def _checks(build_ops: bool) -> tuple[Callable[[], Finding], ...]:
    return (
        check_python,
        check_packages,
        check_torch,
        check_threads,
        check_accelerator,
        check_compiler,
        check_build_locks,
        partial(check_ops, build=build_ops),
        check_ranks,
        check_slurm,
        check_wandb,
        check_hub,
        check_disk,
        check_open_files,
    )


def check_python() -> Finding:
    """Name the interpreter and the system."""
    return Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def check_packages() -> Finding:
    """Compare every installed package with the range that dsprune declares for it."""
    try:
        declared = [Requirement(line) for line in requires("dsprune") or ()]
    except PackageNotFoundError:
        return Finding("packages", "fail", "dsprune is not installed: pip install -e . in its repository")
    needed = [
        requirement for requirement in declared if not requirement.marker or requirement.marker.evaluate()
    ]
    wrong = [problem for requirement in needed if (problem := _package_problem(requirement))]
    if wrong:
        return Finding("packages", "fail", "; ".join(wrong))
    return Finding(
        "packages", "ok", f"deepspeed {version('deepspeed')}, all {len(needed)} within their ranges"
    )


def _package_problem(requirement: Requirement) -> str | None:
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is missing: pip install '{requirement}'"
    if requirement.specifier.contains(installed, prereleases=True):
        return None
    return f"{requirement.name} {installed} is installed, not supported: pip install '{requirement}'"


def check_torch() -> Finding:
    """Name torch's version and what it computes on."""
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return Finding("torch", "ok", f"{torch.__version__}, {torch.cuda.device_count()} GPUs: {names}")
    if shutil.which("nvidia-smi") and torch.version.cuda is None:
        way_out = "pip install --force-reinstall torch from an index with a CUDA build"
        return Finding(
            "torch", "warn", f"{torch.__version__} is a CPU build on a machine with nvidia-smi: {way_out}"
        )
    return Finding("torch", "ok", f"{torch.__version__}, CPU only")


def check_threads() -> Finding:
    """Ranks on CPU that each take every core are ten times slower."""
    found = f"{torch.get_num_threads()} threads a process on {os.cpu_count()} cores"
    if torch.cuda.is_available() or "OMP_NUM_THREADS" in os.environ:
        return Finding("threads", "ok", found)
    way_out = "export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE before starting several ranks"
    return Finding("threads", "warn", f"{found}: {way_out}")


def check_accelerator() -> Finding:
    """Say what DeepSpeed trains on and how its ranks talk."""
    accelerator = get_accelerator()
    backend = accelerator.communication_backend_name()
    level: Level = "ok" if torch.distributed.is_backend_available(backend) else "fail"
    missing = "" if level == "ok" else ", which this torch lacks: install a torch built with it"
    return Finding("accelerator", level, f"{accelerator.device_name()}, ranks talk over {backend}{missing}")


def check_compiler() -> Finding:
    """DeepSpeed's extensions are compiled at first use."""
    wanted = {"ninja": "ninja", "a C++ compiler": cpp_extension.get_cxx_compiler()}
    missing = [what for what, command in wanted.items() if shutil.which(command) is None]
    if not missing:
        return Finding("compiler", "ok", f"{wanted['a C++ compiler']} and ninja")
    # On CPU every run loads an extension; on a GPU only CPU offload does.
    level: Level = "warn" if torch.cuda.is_available() else "fail"
    way_out = "activate the environment (source .venv/bin/activate) or install g++ and ninja"
    return Finding("compiler", level, f"{' and '.join(missing)} not on PATH: {way_out}")


def check_build_locks() -> Finding:
    """A lock that a killed build left behind makes every later start wait for ever."""
    locks = find_stale_locks()
    if not locks:
        return Finding("build locks", "ok", "none left behind")
    way_out = "unless another machine that shares the folder is building: rm " + " ".join(map(str, locks))
    return Finding(
        "build locks", "fail", f"no process here holds them, later starts wait for ever; {way_out}"
    )


def check_ops(build: bool) -> Finding:
    """Say which of DeepSpeed's extensions are compiled, or compile them now."""
    if build:
        try:
            ops.build_ops()
        except CheckFailedError as error:
            return Finding("DeepSpeed ops", "fail", str(error))
    builders = ops.needed_ops()
    missing = [builder.name for builder in builders if not ops.is_built(builder)]
    if missing:
        way_out = "compiled at first use; before several ranks start: dsprune doctor --build-ops"
        return Finding("DeepSpeed ops", "warn", f"{', '.join(missing)} not built: {way_out}")
    return Finding("DeepSpeed ops", "ok", f"{', '.join(builder.name for builder in builders)} built")


def check_ranks() -> Finding:
    """Start two ranks for real."""
    try:
        probe_ranks(2, RANKS_TIMEOUT)
    except CheckFailedError as error:
        way_out = "check `hostname -i`, or name the network in GLOO_SOCKET_IFNAME (lo for one machine)"
        return Finding("ranks", "fail", f"{error}: {way_out}")
    return Finding("ranks", "ok", "2 gloo ranks started and agreed on a sum")


def check_slurm() -> Finding:
    """Slurm is optional, half of it is a mistake."""
    commands = ("sbatch", "srun", "scontrol")
    missing = [command for command in commands if shutil.which(command) is None]
    if len(missing) == len(commands):
        return Finding("slurm", "ok", "not here; needed for slurm/ only")
    if missing:
        return Finding("slurm", "warn", f"{', '.join(missing)} not on PATH: load the site's slurm module")
    found = subprocess.run(["scontrol", "--version"], capture_output=True, text=True, check=False).stdout
    return Finding("slurm", "ok", found.strip() or "version unknown")


def check_wandb() -> Finding:
    """Say whether runs would reach the server; the key itself is never shown."""
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    if os.environ.get("WANDB_API_KEY") or _in_netrc(host):
        return Finding("wandb", "ok", f"{version('wandb')}, a key for {host} is set")
    return Finding(
        "wandb", "ok", f"{version('wandb')}, no key for {host}: runs stay offline until `wandb login`"
    )


def _in_netrc(host: str) -> bool:
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def check_hub() -> Finding:
    """Models and data sets that are not local come through this cache."""
    cache = Path(HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        return Finding(
            "Hugging Face", "warn", f"cache {cache} cannot be written: set HF_HOME to a folder that can"
        )
    offline = ", offline (HF_HUB_OFFLINE is set)" if is_offline_mode() else ""
    return Finding("Hugging Face", "ok", f"cache {cache}{offline}")


def check_disk() -> Finding:
    """Checkpoints go below the current folder unless the recipe's `output` says otherwise."""
    free = shutil.disk_usage(Path.cwd()).free
    found = f"{free / 1e9:.0f} GB free in {Path.cwd()}"
    if free > LOW_DISK:
        return Finding("disk", "ok", found)
    return Finding(
        "disk", "warn" if free > FULL_DISK else "fail", f"{found}: make room, or set output=FOLDER"
    )


def check_open_files() -> Finding:
    """Ranks, data workers and memory-mapped shards all hold files open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= MIN_OPEN_FILES:
        return Finding("open files", "ok", f"limit {soft}")
    return Finding("open files", "warn", f"limit {soft} is low: ulimit -n {MIN_OPEN_FILES}")
