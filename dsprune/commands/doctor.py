"""`dsprune doctor`: check what this machine can run, one line per check, with the way out of each problem."""

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

import torch
from huggingface_hub.constants import HF_HUB_CACHE, is_offline_mode
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch.utils import cpp_extension

from dsprune.errors import CheckFailedError
from dsprune.ranks.failures import probe_ranks
from dsprune.utils.console import print_table
from dsprune.utils.text import first_line
from dsprune.utils.wandb_key import has_wandb_key, wandb_host
from dsprune.zero import ops

__all__ = ["Finding", "doctor"]

Level = Literal["ok", "warn", "fail"]

STYLES: dict[Level, str] = {"ok": "green", "warn": "yellow", "fail": "bold red"}


RANKS_TIMEOUT = 120.0  # seconds; starting two Pythons takes ten on a slow disk
LOW_DISK, FULL_DISK = 10e9, 1e9  # bytes; a checkpoint of BERT-base with its optimizer takes 1.3 GB
MIN_OPEN_FILES = 1024


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: name of the check.
        level: `warn` = something may not work; `fail` = training does not work.
        message: the finding, and the way out unless the level is `ok`.
    """

    check: str
    level: Level
    message: str


def doctor(console: Console, build_ops: bool = False) -> int:
    """Run and print all checks; return 1 if one failed, otherwise 0.

    The arguments are the options of `dsprune doctor`.
    """
    ops.prepare_builds()
    with console.status("checking this machine"):
        findings = [check() for check in _checks(build_ops)]
    table = Table("check", "", "found", box=None, pad_edge=False)
    for finding in findings:
        table.add_row(finding.check, Text(finding.level, STYLES[finding.level]), Text(finding.message))
    print_table(console, table)
    return int(any(finding.level == "fail" for finding in findings))


def _checks(build_ops: bool) -> tuple[Callable[[], Finding], ...]:
    return (
        check_python,
        check_packages,
        check_torch,
        check_accelerator,
        check_compiler,
        check_build_locks,
        check_architectures,
        partial(check_ops, build=build_ops),
        check_threads,
        check_ranks,
        check_slurm,
        check_wandb,
        check_hub,
        check_disk,
        check_open_files,
    )


def check_python() -> Finding:
    """Report the interpreter and the system."""
    return Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def check_packages() -> Finding:
    """Compare every installed package with the range that dsprune declares for it."""
    try:
        declared = [Requirement(line) for line in requires("dsprune") or ()]
    except PackageNotFoundError:
        return Finding("packages", "fail", "dsprune is not installed: pip install -e . in its repository")
    needed = [each for each in declared if each.marker is None or each.marker.evaluate({"extra": ""})]
    problems = [problem for requirement in needed if (problem := package_problem(requirement))]
    if problems:
        return Finding("packages", "fail", "; ".join(problems))
    return Finding("packages", "ok", f"deepspeed {version('deepspeed')}; all {len(needed)} in their ranges")


def package_problem(requirement: Requirement) -> str | None:
    """Return the problem of the installed version and the way out; None = it is in the range."""
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is missing: pip install '{requirement}'"
    if requirement.specifier.contains(installed, prereleases=True):
        return None
    return f"{requirement.name} {installed} is installed, not supported: pip install '{requirement}'"


def check_torch() -> Finding:
    """Report torch's version and its devices; warn if torch does not see a GPU of the machine."""
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return Finding("torch", "ok", f"{torch.__version__}, {torch.cuda.device_count()} GPUs: {names}")
    if shutil.which("nvidia-smi"):
        way_out = "compare the driver version in nvidia-smi with this build, and install a matching torch"
        return Finding("torch", "warn", f"{torch.__version__} sees no GPU, but nvidia-smi exists: {way_out}")
    return Finding("torch", "ok", f"{torch.__version__}, CPU only")


def check_accelerator() -> Finding:
    """Report DeepSpeed's accelerator, and check that torch has its communication backend."""
    accelerator, backend = ops.accelerator_and_backend()
    found = f"{accelerator}, ranks communicate over {backend}"
    if ops.has_backend(backend):
        return Finding("accelerator", "ok", found)
    return Finding("accelerator", "fail", f"{found}, which this torch lacks: install a torch built with it")


def check_compiler() -> Finding:
    """Check for a compiler, which optimizer offload needs, and fast mask updates: for CPUs in C, for GPUs in Triton."""
    compiler = cpp_extension.get_cxx_compiler()
    missing = [command for command in (compiler, "ninja") if shutil.which(command) is None]
    if not missing:
        return Finding("compiler", "ok", f"{compiler} and ninja")
    lost = "optimizer offload does not start, and mask updates are slower"
    way_out = "install g++ and ninja, or activate the environment that has them"
    return Finding("compiler", "warn", f"{' and '.join(missing)} not on PATH, so {lost}: {way_out}")


def check_build_locks() -> Finding:
    """Look for locks of killed builds, which block every later start that needs the extension."""
    locks = ops.find_stale_locks()
    if not locks:
        return Finding("build locks", "ok", "no stale locks")
    way_out = "unless another machine builds in that folder: rm " + " ".join(map(str, locks))
    return Finding("build locks", "fail", f"left by a killed build; {way_out}")


def check_architectures() -> Finding:
    """Check the GPU architectures that extensions are compiled for, if the environment names them."""
    if (problem := ops.architecture_problem()) is not None:
        return Finding("architectures", "warn", problem)
    chosen = os.environ.get("TORCH_CUDA_ARCH_LIST")
    return Finding("architectures", "ok", f"TORCH_CUDA_ARCH_LIST is {chosen or 'not set'}")


def check_ops(build: bool) -> Finding:
    """Check that the needed extensions of DeepSpeed are compiled; with `build`, compile them first."""
    if build:
        try:
            ops.build_ops()
        except CheckFailedError as error:
            return Finding("DeepSpeed ops", "fail", str(error))
    builders = ops.needed_ops()
    missing = [builder.name for builder in builders if not ops.is_built(builder)]
    if missing:
        way_out = "optimizer offload compiles it at its first start, or dsprune doctor --build-ops"
        return Finding("DeepSpeed ops", "ok", f"{', '.join(missing)} not built: {way_out}")
    return Finding("DeepSpeed ops", "ok", f"{', '.join(builder.name for builder in builders)} built")


def check_threads() -> Finding:
    """Check that the number of threads is limited: CPU ranks that each use every core are ten times slower."""
    found = f"{torch.get_num_threads()} threads per process on {os.cpu_count()} cores"
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
    """Look for a key for wandb's server, without showing it."""
    if has_wandb_key():
        return Finding("wandb", "ok", f"{version('wandb')}, with a key for {wandb_host()}")
    return Finding(
        "wandb", "ok", f"{version('wandb')}, no key for {wandb_host()}: offline until `wandb login`"
    )


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
