"""Checks of the installed software: packages, torch, the compiler, DeepSpeed and its compiled extensions."""

import platform
import shutil
from importlib.metadata import PackageNotFoundError, requires, version

import torch
from packaging.requirements import Requirement
from torch.utils import cpp_extension

from dsprune.commands.doctor import Finding, Level
from dsprune.errors import CheckFailedError
from dsprune.zero import ops


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
    """Return what is wrong with the installed version and the way out; None = it is in the range."""
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is missing: pip install '{requirement}'"
    if requirement.specifier.contains(installed, prereleases=True):
        return None
    return f"{requirement.name} {installed} is installed, not supported: pip install '{requirement}'"


def check_torch() -> Finding:
    """Report torch's version and its devices; warn when a GPU is present that torch does not see."""
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
    """Check for a compiler: DeepSpeed compiles its extensions at first use, on CPU always, on a GPU for offload."""
    compiler = cpp_extension.get_cxx_compiler()
    missing = [command for command in (compiler, "ninja") if shutil.which(command) is None]
    if not missing:
        return Finding("compiler", "ok", f"{compiler} and ninja")
    level: Level = "warn" if torch.cuda.is_available() else "fail"
    way_out = "install g++ and ninja, or activate the environment that has them"
    return Finding("compiler", level, f"{' and '.join(missing)} not on PATH: {way_out}")


def check_build_locks() -> Finding:
    """Look for locks of killed builds, which make every later start wait for ever."""
    locks = ops.find_stale_locks()
    if not locks:
        return Finding("build locks", "ok", "no stale locks")
    way_out = "unless another machine builds in that folder: rm " + " ".join(map(str, locks))
    return Finding("build locks", "fail", f"left by a killed build, every start would wait; {way_out}")


def check_ops(build: bool) -> Finding:
    """Check that the needed extensions of DeepSpeed are compiled.

    Args:
        build: compile them first.
    """
    if build:
        try:
            ops.build_ops()
        except CheckFailedError as error:
            return Finding("DeepSpeed ops", "fail", str(error))
    builders = ops.needed_ops()
    missing = [builder.name for builder in builders if not ops.is_built(builder)]
    if missing:
        way_out = "before several ranks start: dsprune doctor --build-ops"
        return Finding("DeepSpeed ops", "warn", f"{', '.join(missing)} not built; {way_out}")
    return Finding("DeepSpeed ops", "ok", f"{', '.join(builder.name for builder in builders)} built")
