"""The compiled kernel `bits_kernel.c`, which is built once with the system's C compiler and is optional."""

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from dsprune.utils.installation import cache_folder, cpu_type

__all__ = ["Kernel", "build_kernel", "kernel_for"]

SOURCE = Path(__file__).with_name("bits_kernel.c")

FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")


class Kernel:
    """The compiled functions, which take contiguous CPU tensors."""

    def __init__(self, library: Path) -> None:
        functions = ctypes.CDLL(str(library))
        pointer, int32, int64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
        self._apply = {4: functions.apply_32, 2: functions.apply_16}
        for function in self._apply.values():
            function.argtypes, function.restype = [pointer, pointer, int64], None
        self._scan = functions.scan
        self._scan.argtypes = [pointer, pointer, int64, int32, int32, int32, *5 * [pointer]]
        self._scan.restype = int64
        self._histogram = functions.histogram
        self._histogram.argtypes = [pointer, int64, int64, int32, pointer]
        self._histogram.restype = None

    def apply_(self, kept: Tensor, weights: Tensor) -> None:
        """Set the pruned weights, of 32 or 16 bits each, to zero in place."""
        self._apply[weights.element_size()](kept.data_ptr(), weights.data_ptr(), weights.numel())

    def scan(
        self, scores: Tensor, absolute: bool, kept: Tensor, low: int, high: int, new_kept: Tensor
    ) -> tuple[int, int, Tensor, Tensor]:
        """Do the same as `dsprune.selection.scan.scan_eager`."""
        inside = torch.empty(scores.numel(), dtype=torch.int32)
        places = torch.empty(scores.numel(), dtype=torch.int64)
        below, nan = ctypes.c_int64(), ctypes.c_int64()
        copied = self._scan(
            scores.data_ptr(), kept.data_ptr(), scores.numel(), absolute, low, high,
            new_kept.data_ptr(), inside.data_ptr(), places.data_ptr(), ctypes.byref(below), ctypes.byref(nan),
        )  # fmt: skip
        return below.value, nan.value, inside[:copied].clone(), places[:copied].clone()

    def histogram(self, keys: Tensor, low: int, bin_bits: int) -> Tensor:
        """Do the same as `dsprune.selection.search.histogram_eager`."""
        counts = torch.zeros(256, dtype=torch.int64)
        self._histogram(keys.data_ptr(), keys.numel(), low, bin_bits, counts.data_ptr())
        return counts


def build_kernel(folder: Path) -> Path | None:
    """Compile the kernel into `folder`, unless it exists, and return the library; None without a working compiler.

    The library's name contains a hash of everything that determines the machine code, and the file is renamed into
    place. Therefore ranks may build at the same time, and machines of different types may share the folder.
    """
    digest = hashlib.sha256(SOURCE.read_bytes() + " ".join(FLAGS).encode() + cpu_type().encode()).hexdigest()
    library = folder / f"bits_kernel-{digest[:16]}.so"
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if library.exists() or compiler is None:
        return library if library.exists() else None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = Path(scratch) / library.name
            subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(built)], check=True, capture_output=True)
            built.replace(library)
    except (OSError, subprocess.CalledProcessError):  # a read-only home, an old compiler
        return None
    return library


def kernel_for(tensor: Tensor) -> Kernel | None:
    """Return the kernel, or None if it is not available for this tensor."""
    return _load() if tensor.device.type == "cpu" and tensor.is_contiguous() else None


@cache
def _load() -> Kernel | None:
    library = build_kernel(cache_folder())
    try:
        return None if library is None else Kernel(library)
    except OSError:  # the home is mounted noexec
        return None
