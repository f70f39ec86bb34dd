"""The C++ extensions that DeepSpeed compiles at first use: which are needed here, and what blocks them."""

import fcntl
import os
from pathlib import Path

import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.git_version_info import installed_ops
from deepspeed.ops.op_builder.builder import OpBuilder
from torch.utils import cpp_extension

from dsprune.errors import CheckFailedError, UserError

__all__ = [
    "accelerator_and_backend",
    "build_ops",
    "find_stale_locks",
    "has_backend",
    "is_built",
    "load_collectives",
    "needed_ops",
]


def accelerator_and_backend() -> tuple[str, str]:
    """Name what DeepSpeed trains on here, and the backend by which its ranks talk."""
    accelerator = get_accelerator()
    return accelerator.device_name(), accelerator.communication_backend_name()


def has_backend(name: str) -> bool:
    """Say whether this torch has a communication backend."""
    return bool(torch.distributed.is_backend_available(name))


def needed_ops() -> list[OpBuilder]:
    """List the extensions that a run may load here: CPUAdam for offload, and on CPU the collectives."""
    accelerator = get_accelerator()
    names = ["CPUAdamBuilder"]
    if accelerator.device_name() == "cpu":
        names.append("ShareMemCommBuilder")
    builders = (accelerator.create_op_builder(name) for name in names)
    return [builder for builder in builders if builder is not None and builder.is_compatible(verbose=False)]


def is_built(builder: OpBuilder) -> bool:
    """Say whether the extension was installed with DeepSpeed or lies compiled in torch's cache."""
    folder = Path(cpp_extension._get_build_directory(builder.name, verbose=False))
    return installed_ops.get(builder.name, False) or (folder / f"{builder.name}.so").is_file()


def build_ops() -> None:
    """Compile and load every needed extension, in this process alone: ranks that build at once can collide.

    Raises:
        CheckFailedError: one does not compile, or a stale lock would make the build wait for ever.
    """
    for lock in find_stale_locks():
        raise CheckFailedError(f"{lock}: left by a build that was killed: remove it, then try again")
    for builder in needed_ops():
        try:
            builder.load(verbose=False)
        except (ImportError, OSError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise CheckFailedError(f"{builder.name}: does not compile ({reason}): see `ds_report`") from error


def load_collectives() -> None:
    """Load DeepSpeed's CPU collectives, compiled if need be, one rank of a host after the other.

    DeepSpeed lets all ranks compile them at once when they start, and ranks that do so can collide. The lock
    is the kernel's, so it goes with the process that holds it.

    Raises:
        UserError: a build that was killed has left a lock of torch's, which every start would wait for.
    """
    _extensions_root().mkdir(parents=True, exist_ok=True)
    with (_extensions_root() / "dsprune.turn").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        for lock in find_stale_locks():
            raise UserError(
                f"{lock}: left by a build that was killed, and every start waits for it: remove the file"
            )
        builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
        if builder is not None and builder.is_compatible(verbose=False):  # None: not on a CPU
            builder.load(verbose=False)


def find_stale_locks() -> list[Path]:
    """Find build locks that no live process holds: every later build waits for them, silently and for ever.

    torch keeps its lock file open while it builds and removes it when done (`torch.utils.file_baton`), so a
    lock that nobody has open was left by a process that was killed. A lock is given the benefit of the doubt
    where that cannot be seen: without /proc, or when it belongs to another user.
    """
    locks = {lock: _identity(lock) for lock in _extensions_root().rglob("lock")}
    if not locks or not Path("/proc/self/fd").is_dir():
        return []
    held = _open_files()
    # A build that ended while we looked has removed its lock by now.
    return [lock for lock, identity in locks.items() if identity not in held and _is_ours(lock)]


def _extensions_root() -> Path:
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root())


def _is_ours(lock: Path) -> bool:
    """Only its owner and root can see who holds a lock."""
    try:
        return os.getuid() in (0, lock.stat().st_uid)
    except FileNotFoundError:
        return False


def _open_files() -> set[tuple[int, int] | None]:
    """Identify every file that a process of this machine, as far as we may look, has open."""
    processes = Path("/proc").glob("[0-9]*")
    return {_identity(descriptor) for process in processes for descriptor in _descriptors(process)}


def _descriptors(process: Path) -> list[Path]:
    try:
        return list((process / "fd").iterdir())
    except OSError:  # it ended meanwhile, or is another user's
        return []


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode, or None where the file is gone."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino
