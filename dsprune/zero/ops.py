"""The C++ extensions that DeepSpeed compiles at first use: which are needed, their folder, and stale build locks."""

import hashlib
import os
import re
import sys
import sysconfig
import time
import traceback
from contextlib import suppress
from functools import cache
from glob import iglob
from importlib import import_module
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.git_version_info import installed_ops
from deepspeed.ops.op_builder.builder import OpBuilder
from deepspeed.runtime import compiler

from dsprune.errors import CheckFailedError, UserError
from dsprune.utils.installation import cache_folder, cpu_type
from dsprune.utils.replacing import replaced
from dsprune.utils.text import first_line

__all__ = [
    "accelerator_and_backend",
    "architecture_problem",
    "build_failure",
    "build_ops",
    "compile_note",
    "extensions_folder",
    "find_stale_locks",
    "has_backend",
    "import_muon",
    "is_built",
    "needed_ops",
    "prepare_builds",
]


def accelerator_and_backend() -> tuple[str, str]:
    """Return the names of DeepSpeed's accelerator and of the communication backend of its ranks."""
    accelerator = get_accelerator()
    return accelerator.device_name(), accelerator.communication_backend_name()


def has_backend(name: str) -> bool:
    """Return whether this torch has a communication backend."""
    return bool(torch.distributed.is_backend_available(name))


def extensions_folder() -> Path:
    """Return the folder of compiled extensions: TORCH_EXTENSIONS_DIR, or one for this environment and type of CPU.

    All environments share torch's own default, and would overwrite each other's builds.
    """
    if chosen := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(chosen)
    compiled_for = (sys.prefix, sys.version, torch.__version__, deepspeed.__version__, cpu_type())
    return cache_folder() / "extensions" / hashlib.sha256("\n".join(compiled_for).encode()).hexdigest()[:16]


def prepare_builds() -> None:
    """Make torch compile and find extensions in `extensions_folder()`, with the `ninja` of this environment.

    DeepSpeed installs that `ninja`. Another version would compile everything again. Waiting for the lock of a killed
    build raises a `UserError`; torch itself would wait forever.
    """
    os.environ["TORCH_EXTENSIONS_DIR"] = str(extensions_folder())
    programs, path = sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)
    if Path(programs, "ninja").is_file() and not path.startswith(programs + os.pathsep):
        os.environ["PATH"] = programs + os.pathsep + path
    _check_waits()


@cache
def _check_waits() -> None:
    """Make torch's wait for another build look whether that was killed; locks of other folders are torch's own."""
    try:
        baton = import_module("torch.utils.file_baton").FileBaton
    except ImportError:  # newer torch has other locks, which the kernel releases
        return
    torch_wait = baton.wait

    def wait(self: Any) -> None:
        lock = Path(self.lock_file_path)
        while lock.is_relative_to(extensions_folder()) and lock.exists():
            if lock in find_stale_locks():
                raise UserError(
                    f"{lock}: left by a build that was killed, and every start that needs the extension waits for it: "
                    f"unless another machine builds in that folder, remove the file"
                )
            time.sleep(1)  # a look at all processes is expensive
        torch_wait(self)

    baton.wait = wait


def needed_ops() -> list[OpBuilder]:
    """Return the extensions that a run with optimizer offload loads: CPUAdam."""
    builder = get_accelerator().create_op_builder("CPUAdamBuilder")
    return [builder] if builder is not None and builder.is_compatible(verbose=False) else []


def is_built(builder: OpBuilder) -> bool:
    """Return whether the extension was installed with DeepSpeed, or has been compiled here."""
    library = extensions_folder() / builder.name / f"{builder.name}.so"
    return bool(installed_ops.get(builder.name, False) or library.is_file())


def compile_note() -> str:
    """Return a note that a needed extension has to be compiled first, or is being compiled; otherwise empty."""
    names = ", ".join(builder.name for builder in needed_ops() if not is_built(builder))
    return (
        names and f" (DeepSpeed's extension {names} is compiled first, which takes minutes and happens once)"
    )


def build_ops() -> None:
    """Compile and load every needed extension in this process: ranks that build at the same time can collide.

    Raises:
        CheckFailedError: an extension does not compile, or a stale lock would block the build forever.
    """
    prepare_builds()
    for lock in find_stale_locks():
        raise CheckFailedError(f"{lock}: left by a build that was killed: remove it, then try again")
    for builder in needed_ops():
        try:
            builder.load(verbose=False)
        except Exception as error:  # of many types
            if (failure := build_failure(error)) is None:
                raise
            raise CheckFailedError(failure) from error


def build_failure(error: BaseException | None) -> str | None:
    """Return the message for an error of a build of an extension, or one that it caused; None = another error."""
    if error is None:
        return None
    if isinstance(error, UserError):
        return str(error)
    callers = (frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__))
    builder = next((caller for caller in callers if isinstance(caller, OpBuilder)), None)
    if builder is None:
        return build_failure(error.__cause__ or error.__context__)
    way_out = architecture_problem() or "see `ds_report`"
    return f"DeepSpeed's extension {builder.name}: does not compile ({first_line(error)}): {way_out}"


def architecture_problem() -> str | None:
    """Return what DeepSpeed cannot read in TORCH_CUDA_ARCH_LIST, of which torch reads more; None = it can."""
    architectures = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    if all(re.fullmatch(r"\d+\.\d+(\+PTX)?", each) for each in re.split(r"[;\s]+", architectures) if each):
        return None
    return (
        f"TORCH_CUDA_ARCH_LIST: value {architectures!r}: DeepSpeed reads numbers such as 9.0 only: set those, or "
        "unset the variable"
    )


def import_muon() -> None:
    """Import DeepSpeed's Muon without torch's compiler.

    DeepSpeed imports it for every optimizer, and its import compiles kernels, which loads the compiler in a second or
    two. dsprune does not train with Muon.
    """
    with replaced(compiler, "compile", lambda: compiler.dummy_decorator):
        import_module("deepspeed.runtime.zero.muon.original_muon")


def find_stale_locks() -> list[Path]:
    """Return the build locks that no live process holds: every later build of that extension waits for them.

    torch before 2.14 keeps its lock file open while it builds and removes it when done (`torch.utils.file_baton`),
    so a lock that no process has open was left by a killed process. A lock is not reported if this is unknown: without
    /proc, or if it belongs to another user. The lock files that newer torch leaves block no build.
    """
    locks = {lock: _identity(lock) for lock in extensions_folder().rglob("lock")}
    if not locks or not Path("/proc/self/fd").is_dir():
        return []
    from torch.utils import cpp_extension  # which loads setuptools

    if not hasattr(cpp_extension, "FileBaton"):
        return []
    # `Path.glob` fails if a process ends meanwhile.
    held = {_identity(Path(descriptor)) for descriptor in iglob("/proc/[0-9]*/fd/*")}  # noqa: PTH207
    # A build that ended meanwhile has removed its lock.
    return [lock for lock, identity in locks.items() if identity not in held and _is_ours(lock)]


def _is_ours(lock: Path) -> bool:
    """Return whether this user can see which processes hold a lock: its owner and root can."""
    with suppress(FileNotFoundError):
        return os.getuid() in (0, lock.stat().st_uid)
    return False


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file; None if it no longer exists or belongs to another user."""
    with suppress(OSError):
        return (found := path.stat()).st_dev, found.st_ino
    return None
