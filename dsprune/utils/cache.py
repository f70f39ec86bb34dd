"""The user's cache of compiled code, and the type of CPU that the code is compiled for."""

import os
import platform
from pathlib import Path

__all__ = ["cache_folder", "cpu_type"]


def cache_folder() -> Path:
    """Return dsprune's folder in the user's cache; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsprune"


def cpu_type() -> str:
    """Return what the compiler option `-march=native` depends on: the model and features of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else [platform.processor()]
    names = ("model name", "flags", "CPU part", "Features", platform.processor() or "-")
    return platform.machine() + "".join(sorted({line for line in lines if line.startswith(names)}))
