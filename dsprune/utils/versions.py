"""What a process runs: package versions, a hash of dsprune's code, and the command line."""

import hashlib
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

__all__ = ["PACKAGES", "code_digest", "command_line", "package_versions", "versions"]

PACKAGES = ("dsprune", "torch", "deepspeed", "transformers")
"""The packages that affect results."""


def package_versions() -> dict[str, str]:
    """Return the versions of `PACKAGES`."""
    # Of the package that imported this one, which need not be installed.
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
