"""Checks of the machine around the software: cores, ranks, slurm, keys, caches and limits."""

import netrc
import os
import resource
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlparse

import torch
from huggingface_hub.constants import HF_HUB_CACHE, is_offline_mode

from dsprune.commands.doctor.finding import Finding, Level
from dsprune.errors import CheckFailedError
from dsprune.ranks.probe import probe_ranks

RANKS_TIMEOUT = 120.0  # seconds; starting two Pythons takes ten on a slow disk


LOW_DISK, FULL_DISK = 10e9, 1e9  # bytes; a checkpoint of BERT-base with its optimizer takes 1.3 GB


MIN_OPEN_FILES = 1024


def check_threads() -> Finding:
    """Ranks on CPU that each take every core are ten times slower."""
    found = f"{torch.get_num_threads()} threads a process on {os.cpu_count()} cores"
    if torch.cuda.is_available() or "OMP_NUM_THREADS" in os.environ:
        return Finding("threads", "ok", found)
    way_out = "export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE before several ranks start"
    return Finding("threads", "warn", f"{found}: {way_out}")


def check_ranks() -> Finding:
    """Start two ranks for real."""
    try:
        probe_ranks(2, RANKS_TIMEOUT)
    except CheckFailedError as error:
        way_out = "name the network in GLOO_SOCKET_IFNAME (lo within one machine)"
        return Finding("ranks", "fail", f"{error}: {way_out}")
    return Finding("ranks", "ok", "2 gloo ranks started and agreed on a sum")


def check_slurm() -> Finding:
    """Slurm is optional, half of it is a mistake."""
    commands = ("sbatch", "srun", "scontrol")
    missing = [command for command in commands if shutil.which(command) is None]
    if len(missing) == len(commands):
        return Finding("slurm", "ok", "not here; only the scripts in slurm/ need it")
    if missing:
        return Finding("slurm", "warn", f"{', '.join(missing)} not on PATH: load the site's slurm module")
    found = subprocess.run(["scontrol", "--version"], capture_output=True, text=True, check=False).stdout
    return Finding("slurm", "ok", found.strip() or "version unknown")


def check_wandb() -> Finding:
    """Say whether runs would reach the server; the key itself is never shown."""
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    if os.environ.get("WANDB_API_KEY") or _in_netrc(host):
        return Finding("wandb", "ok", f"{version('wandb')}, there is a key for {host}")
    return Finding("wandb", "ok", f"{version('wandb')}, no key for {host}: offline until `wandb login`")


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
        return Finding("hub cache", "warn", f"{cache} cannot be written: set HF_HOME to another folder")
    mode = "offline (HF_HUB_OFFLINE)" if is_offline_mode() else "online"
    return Finding("hub cache", "ok", f"{cache}, {mode}")


def check_disk() -> Finding:
    """Runs go below the current folder unless the recipe's `output` says otherwise."""
    free = shutil.disk_usage(Path.cwd()).free
    found = f"{free / 1e9:.0f} GB free in {Path.cwd()}"
    if free > LOW_DISK:
        return Finding("disk", "ok", found)
    level: Level = "warn" if free > FULL_DISK else "fail"
    return Finding("disk", level, f"{found}: make room, or set output=FOLDER")


def check_open_files() -> Finding:
    """Ranks, data workers and memory-mapped shards all hold files open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= MIN_OPEN_FILES:
        return Finding("open files", "ok", f"limit {soft}")
    return Finding("open files", "warn", f"limit {soft} is low: ulimit -n {MIN_OPEN_FILES}")
