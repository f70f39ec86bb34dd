"""Where dsprune's own files are: those shipped with it, and the user's cache of compiled code."""

import os
import platform
from pathlib import Path

__all__ = ["cache_folder", "cpu_type", "shipped_folder", "shipped_names"]


def shipped_folder(kind: str) -> Path:
    """Return the folder of `recipes`, `suites`, `ds_configs` or `slurm`."""
    return Path(__file__).parents[1].joinpath(kind).resolve()  # in a checkout, two of them are links


def shipped_names(kind: str) -> list[str]:
    """Return the sorted names of the files of a kind, without their endings."""
    return sorted(file.stem for file in shipped_folder(kind).iterdir())


def cache_folder() -> Path:
    """Return dsprune's folder in the user's cache; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsprune"


def cpu_type() -> str:
    """Return what the compiler option `-march=native` depends on: the model and features of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else [platform.processor()]
    names = ("model name", "flags", "CPU part", "Features", platform.processor() or "-")
    return platform.machine() + "".join(sorted({line for line in lines if line.startswith(names)}))
