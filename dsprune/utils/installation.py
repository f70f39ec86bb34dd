"""The installation: files shipped with dsprune, cache of compiled code, versions, hash of the code."""

import hashlib
import os
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

from dsprune.errors import UserError

__all__ = [
    "PACKAGES",
    "cache_folder",
    "code_digest",
    "command_line",
    "cpu_type",
    "find_shipped",
    "package_versions",
    "shipped_folder",
    "shipped_names",
    "versions",
]

PACKAGES = ("dsprune", "torch", "deepspeed", "transformers")
"""The packages that affect results."""


def shipped_folder(kind: str) -> Path:
    """Return the folder of `recipes`, `suites`, `ds_configs` or `slurm`."""
    return Path(__file__).parents[1].joinpath(kind).resolve()  # in a checkout, two of them are links


def shipped_names(kind: str) -> list[str]:
    """Return the sorted names of the files of a kind, without their endings."""
    return sorted(file.stem for file in shipped_folder(kind).iterdir())


def find_shipped(kind: str, name_or_path: str) -> Path | None:
    """Return the file at a path, or the shipped file of a kind; None if neither exists."""
    shipped = (file for file in shipped_folder(kind).iterdir() if file.stem == name_or_path)
    return path if (path := Path(name_or_path)).is_file() else next(shipped, None)


def cache_folder() -> Path:
    """Return dsprune's folder in the user's cache; it may not exist yet.

    Raises:
        UserError: the user has no home, as in a container that runs with the number of an unknown user.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsprune"
    except RuntimeError as error:
        raise UserError(
            f"HOME: not set, and user {os.getuid()} has no home: set HOME to a folder that can be written"
        ) from error


def cpu_type() -> str:
    """Return the model and features of the CPU, which determine the compiler option `-march=native`."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else [platform.processor()]
    names = ("model name", "flags", "CPU part", "Features", platform.processor() or "-")
    return platform.machine() + "".join(sorted({line for line in lines if line.startswith(names)}))


def package_versions() -> dict[str, str]:
    """Return the versions of `PACKAGES`."""
    # The version of the imported package, which need not be installed.
    own = {"dsprune": str(sys.modules["dsprune"].__version__)}
    return own | {name: version(name) for name in PACKAGES if name not in own}


def versions() -> dict[str, str]:
    """Return the versions of Python and of `PACKAGES`."""
    return {"python": platform.python_version(), **package_versions()}


def code_digest() -> str:
    """Return a hash of dsprune's source files, which differs between checkouts of the same version."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def command_line() -> str:
    """Return the command line of this process without the arguments that a launcher added."""
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--local")]
    return shlex.join(["dsprune", *arguments])
