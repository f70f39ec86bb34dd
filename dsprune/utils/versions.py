"""What runs here: versions of packages, the code of dsprune, the command line."""

import hashlib
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

__all__ = ["PACKAGES", "code_digest", "command_line", "package_versions", "versions"]

PACKAGES = ("dsprune", "torch", "deepspeed", "transformers")
"""The packages that results depend on."""


def package_versions() -> dict[str, str]:
    """Return the versions of `PACKAGES`."""
    return {name: version(name) for name in PACKAGES}


def versions() -> dict[str, str]:
    """Return the versions of Python and of `PACKAGES`."""
    return {"python": platform.python_version(), **package_versions()}


def code_digest() -> str:
    """Return a hash of dsprune's own source files, which tells checkouts of one version apart."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def command_line() -> str:
    """Return the command of this process, without what a launcher added."""
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--local")]
    return shlex.join(["dsprune", *arguments])
