"""Debian programs for tests, installed if that is allowed. Tests use the fixture `need`."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

__all__ = ["install", "need"]

LOCK = Path(tempfile.gettempdir()) / f"dsprune-apt-{os.geteuid()}.lock"


def install(programs: Mapping[str, str]) -> str | None:
    """Install missing programs as root, from Debian's packages; return why that is impossible, or None.

    Args:
        programs: names on PATH, and their packages.
    """
    with LOCK.open("w") as lock:  # tests run in parallel, but apt-get cannot
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _install(
            {program: package for program, package in programs.items() if not shutil.which(program)}
        )


def _install(missing: Mapping[str, str]) -> str | None:
    if not missing:
        return None
    names = ", ".join(missing.values())
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return f"{', '.join(missing)}: not on PATH: install {names}, or run as root where there is apt-get"
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "-qq"]
    quietly = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["-y", "install", "--no-install-recommends", *missing.values()]):
        done = subprocess.run([*apt, *arguments], env=quietly, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"apt-get could not install {names}: {done.stderr[-300:]}"


def need(programs: Mapping[str, str], obstacle: str | None = None) -> None:
    """Skip a test whose programs are missing and cannot be installed; continuous integration must run it.

    Args:
        programs: names on PATH, and their packages.
        obstacle: another reason why the test cannot run here, if there is one.
    """
    if obstacle := obstacle or install(programs):
        assert "CI" not in os.environ, obstacle
        pytest.skip(obstacle)
