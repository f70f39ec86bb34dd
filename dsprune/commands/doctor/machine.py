"""Checks of the machine: threads, ranks, Slurm, the key for wandb, caches, disk and limits."""

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

from dsprune.commands.doctor import Finding, Level
from dsprune.errors import CheckFailedError
from dsprune.ranks.failures import probe_ranks
from dsprune.utils.text import first_line

RANKS_TIMEOUT = 120.0  # seconds; starting two Pythons takes ten on a slow disk
LOW_DISK, FULL_DISK = 10e9, 1e9  # bytes; a checkpoint of BERT-base with its optimizer takes 1.3 GB
MIN_OPEN_FILES = 1024


def check_threads() -> Finding:
    """Check that the number of threads is bounded: ranks on CPU that each use every core are ten times slower."""
    found = f"{torch.get_num_threads()} threads a process on {os.cpu_count()} cores"
    if torch.cuda.is_available() or "OMP_NUM_THREADS" in os.environ:
        return Finding("threads", "ok", found)
    way_out = "export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE before several ranks start"
    return Finding("threads", "warn", f"{found}: {way_out}")


def check_ranks() -> Finding:
    """Start two ranks, and let them sum a number."""
    try:
        probe_ranks(2, RANKS_TIMEOUT)
    except CheckFailedError as error:
        way_out = "name the network in GLOO_SOCKET_IFNAME (lo within one machine)"
        return Finding("ranks", "fail", f"{error}: {way_out}")
    return Finding("ranks", "ok", "2 gloo ranks started and agreed on a sum")


def check_slurm() -> Finding:
    """Check that Slurm's commands are all installed and work; a machine without Slurm passes."""
    commands = ("sbatch", "srun", "scontrol")
    missing = [command for command in commands if shutil.which(command) is None]
    if len(missing) == len(commands):
        return Finding("slurm", "ok", "not installed; only the scripts in slurm/ need it")
    if missing:
        return Finding("slurm", "warn", f"{', '.join(missing)} not on PATH: load the site's slurm module")
    for command in commands:
        try:
            done = subprocess.run(
                [command, "--version"], capture_output=True, text=True, check=False, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return Finding(
                "slurm", "warn", f"{command} --version: {first_line(error)}: repair the installation"
            )
        if done.returncode or not done.stdout.strip():
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            found = f"{command} --version: exit code {done.returncode} ({reason})"
            return Finding("slurm", "warn", f"{found}: load the site's slurm module, or repair slurm.conf")
    return Finding("slurm", "ok", done.stdout.strip())


def check_wandb() -> Finding:
    """Look for a key for wandb's server; the key itself is never shown."""
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    if os.environ.get("WANDB_API_KEY") or _in_netrc(host):
        return Finding("wandb", "ok", f"{version('wandb')}, with a key for {host}")
    return Finding("wandb", "ok", f"{version('wandb')}, no key for {host}: offline until `wandb login`")


def _in_netrc(host: str) -> bool:
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def check_hub() -> Finding:
    """Check that the cache can be written: models and data sets that are not local are downloaded to it."""
    cache = Path(HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        return Finding("hub cache", "warn", f"{cache} cannot be written: set HF_HOME to another folder")
    mode = "offline (HF_HUB_OFFLINE)" if is_offline_mode() else "online"
    return Finding("hub cache", "ok", f"{cache}, {mode}")


def check_disk() -> Finding:
    """Check the space in the current folder, where runs are written unless the recipe sets `output`."""
    free = shutil.disk_usage(Path.cwd()).free
    found = f"{free / 1e9:.0f} GB free in {Path.cwd()}"
    if free > LOW_DISK:
        return Finding("disk", "ok", found)
    level: Level = "warn" if free > FULL_DISK else "fail"
    return Finding("disk", level, f"{found}: make room, or set output=FOLDER")


def check_open_files() -> Finding:
    """Check the limit of open files: ranks, data workers and memory-mapped shards all hold files open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= MIN_OPEN_FILES:
        return Finding("open files", "ok", f"limit {soft}")
    return Finding("open files", "warn", f"limit {soft} is low: ulimit -n {MIN_OPEN_FILES}")
