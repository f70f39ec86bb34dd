"""The compiled C functions for CPU tensors. They are optional, and built once with the system's compiler."""

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from dsprune.kernels.product import Product
from dsprune.utils.installation import cache_folder, cpu_type

__all__ = ["Kernel", "build_kernel", "in_threads", "kernel_for"]

SOURCE = Path(__file__).with_name("cpu.c")

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-ffp-contract=off", "-shared", "-fPIC")

VECTOR = 16  # entries that `scan` may write after its last result

R = TypeVar("R")

Pointer, Int32, Int64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64


class _Product(ctypes.Structure):
    """`product` of the C source."""

    _fields_ = (("first", Pointer), ("root", Pointer), ("scale", ctypes.c_float), ("absolute", Int32))


SIGNATURES = {
    "apply_16": (None, Pointer, Pointer, Int64),
    "apply_32": (None, Pointer, Pointer, Int64),
    "scan": (Int64, Pointer, Pointer, Int64, Int32, Int32, *5 * [Pointer]),
    "sample": (None, Pointer, Pointer, Int64, Int64, Int64, Pointer),
    "settle": (Int64, Pointer, Pointer, Pointer, Int64, Int32, Int64),
    "histograms": (None, Pointer, Int64, Int64, *5 * [Pointer]),
    "digest": (Int64, Pointer, Int64, Int64),
}
"""Type of the result and of the arguments of each C function."""


class Kernel:
    """The compiled functions; they accept contiguous CPU tensors."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        for name, (result, *arguments) in SIGNATURES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments

    def apply_(self, kept: Tensor, weights: Tensor) -> None:
        """Set the pruned weights, of 32 or 16 bits each, to zero in place."""
        apply = self._library.apply_32 if weights.element_size() == 4 else self._library.apply_16
        apply(kept.data_ptr(), weights.data_ptr(), weights.numel())

    def scan(
        self, scores: Product, absolute: bool, kept: Tensor, low: int, high: int, new_kept: Tensor
    ) -> tuple[int, int, Tensor, Tensor]:
        """Compiled `dsprune.selection.scan.scan_eager`."""
        inside, places = torch.empty((2, scores.first.numel() + VECTOR), dtype=torch.int32)
        below, nan = Int64(), Int64()
        copied = self._library.scan(
            _product(scores, absolute), kept.data_ptr(), scores.first.numel(), low, high,
            new_kept.data_ptr(), inside.data_ptr(), places.data_ptr(), ctypes.byref(below), ctypes.byref(nan),
        )  # fmt: skip
        # The places keep the whole buffer until they are made 64-bit, which copies them.
        return below.value, nan.value, inside[:copied].clone(), places[:copied]

    def sample(self, scores: Product, absolute: bool, kept: Tensor, part: slice) -> Tensor:
        """Compiled `dsprune.selection.scan.sample_eager`."""
        keys = torch.empty(len(range(*part.indices(scores.first.numel()))), dtype=torch.int32)
        place = _product(scores, absolute), kept.data_ptr(), part.start, part.step
        self._library.sample(*place, keys.numel(), keys.data_ptr())
        return keys

    def settle(self, kept: Tensor, keys: Tensor, places: Tensor, threshold: int, quota: int) -> int:
        """Compiled `dsprune.selection.scan.settle_eager`."""
        found = kept.data_ptr(), keys.data_ptr(), places.data_ptr(), keys.numel()
        return int(self._library.settle(*found, threshold, quota))

    def histograms(
        self, keys: Tensor, begins: Tensor, sizes: Tensor, low: Tensor, bin_bits: Tensor
    ) -> Tensor:
        """Compiled `dsprune.selection.search.histograms_eager`."""
        counts = torch.empty((len(low), 256), dtype=torch.int64)
        given = keys, begins, sizes, low, bin_bits, counts
        first, *rest = (values.contiguous().data_ptr() for values in given)
        self._library.histograms(first, len(sizes), len(low), *rest)
        return counts

    def digest(self, kept: Tensor, num_weights: int, first: int) -> int:
        """Compiled `dsprune.masks.mask_set.digest_eager`."""
        return int(self._library.digest(kept.data_ptr(), num_weights, first))


def _product(scores: Product, absolute: bool) -> object:
    root = None if scores.root is None else scores.root.data_ptr()
    return ctypes.byref(_Product(scores.first.data_ptr(), root, scores.scale, absolute))


def build_kernel(folder: Path) -> Path | None:
    """Compile the kernel into `folder`, unless it exists, and return the library; None without a working compiler.

    The library's name contains a hash of everything that determines the machine code, and the file is renamed into
    place. So ranks may build at the same time, and machines of different types may share the folder.
    """
    digest = hashlib.sha256(SOURCE.read_bytes() + " ".join(FLAGS).encode() + cpu_type().encode()).hexdigest()
    library = folder / f"kernels-{digest[:16]}.so"
    if library.exists():
        return library
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
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


def in_threads(work: Callable[..., R], given: Iterable[tuple[Any, ...]], read: Iterable[Tensor]) -> list[R]:
    """Return the results of `work`, in order, using as many threads as a torch operation.

    The compiled functions run in parallel, because they release Python's lock. If they are not available for the
    tensors `read`, one thread runs, and torch uses the others. The work must depend only on its arguments, so that
    results do not depend on the threads.
    """
    if torch.get_num_threads() == 1 or any(kernel_for(tensor) is None for tensor in read):
        return [work(*arguments) for arguments in given]
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return list(threads.map(lambda arguments: work(*arguments), given))


@cache
def _load() -> Kernel | None:
    library = build_kernel(cache_folder())
    try:
        return None if library is None else Kernel(library)
    except OSError:  # the home is mounted noexec
        return None
