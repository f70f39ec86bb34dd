"""Packed masks with one bit per weight: bit j of byte i is weight 8 i + j, 1 = kept; bits after the end are 0.

The mask of a shard is local to the shard: bit 0 of byte 0 is the shard's first weight. The compiled kernel,
`bits_kernel.c`, is built once with the system's C compiler and is optional.
"""

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

__all__ = [
    "Kernel",
    "apply_",
    "apply_eager_",
    "build_kernel",
    "count_kept",
    "invert",
    "is_applied",
    "kernel_for",
    "pack",
    "pick",
    "prune_",
    "unpack",
]

SOURCE = Path(__file__).with_name("bits_kernel.c")

FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")

INT_OF_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}

CHUNK = 1 << 20  # weights at a time, so that temporaries stay in the cache

GATHER_LOW_BITS = 0x0102040810204080  # times a word of eight bytes of 0 or 1: their bits, in the highest byte


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


def num_bytes(num_weights: int) -> int:
    """Return the bytes of a packed mask."""
    return (num_weights + 7) // 8


def pack(mask: Tensor) -> Tensor:
    """Pack a 1-D boolean mask, True = kept, into `uint8[ceil(n / 8)]`."""
    padded = torch.nn.functional.pad(mask.view(torch.uint8), (0, -mask.numel() % 8))
    words = padded.contiguous().view(torch.int64)
    return (words * GATHER_LOW_BITS >> 56).to(torch.uint8)


def unpack(bits: Tensor, num_weights: int) -> Tensor:
    """Unpack to a boolean mask of `num_weights` weights."""
    return _rows(torch.bool, bits.device).index_select(0, bits.int()).view(-1)[:num_weights]


def pick(bits: Tensor, part: slice, num_weights: int) -> Tensor:
    """Return the boolean mask of the weights `part` of `num_weights`, without unpacking the others."""
    indices = torch.arange(*part.indices(num_weights), device=bits.device)
    return (bits[indices // 8] >> (indices % 8).to(torch.uint8) & 1).bool()


def invert(bits: Tensor, num_weights: int) -> Tensor:
    """Return the packed mask that keeps exactly what this one prunes."""
    inverted = ~bits
    if num_weights % 8:
        inverted[-1] &= (1 << num_weights % 8) - 1
    return inverted


def prune_(bits: Tensor, places: Tensor) -> None:
    """Prune the weights at `places` in place; they must be kept so far, and distinct."""
    bits.index_add_(0, places >> 3, 1 << (places & 7).to(torch.uint8), alpha=-1)


def count_kept(bits: Tensor) -> int:
    """Return the number of kept weights."""
    ones = _rows(torch.bool, bits.device).sum(dim=1, dtype=torch.uint8)
    return sum(int(ones.index_select(0, chunk.int()).sum()) for chunk in bits.split(CHUNK))


@torch.no_grad()
def apply_(bits: Tensor, weights: Tensor) -> None:
    """Set the pruned entries of a 1-D floating-point tensor to +0.0 in place, also if they are -0.0 or NaN."""
    kernel = kernel_for(weights)
    if kernel is not None and weights.element_size() in (2, 4):
        kernel.apply_(bits, weights)
    else:
        apply_eager_(bits, weights)


@torch.no_grad()
def apply_eager_(bits: Tensor, weights: Tensor) -> None:
    """Do the same as `apply_` on any device: each mask byte selects eight words, all ones where kept."""
    dtype = INT_OF_SIZE[weights.element_size()]
    rows = _rows(torch.bool, weights.device).to(dtype).neg()
    for chunk, packed in zip(weights.split(CHUNK), bits.split(CHUNK // 8), strict=True):
        words = rows.index_select(0, packed.int()).view(-1)[: chunk.numel()]
        chunk.view(dtype).bitwise_and_(words)


def is_applied(bits: Tensor, weights: Tensor) -> Tensor:
    """Return whether `apply_` would change nothing, as a 0-dim tensor: the caller chooses when to wait for it."""
    dtype = INT_OF_SIZE[weights.element_size()]
    changed = torch.zeros((), dtype=torch.bool, device=weights.device)
    for chunk, packed in zip(weights.split(CHUNK), bits.split(CHUNK // 8), strict=True):
        masked = chunk.clone()
        apply_(packed, masked)
        changed |= (masked.view(dtype) != chunk.view(dtype)).any()
    return ~changed


@cache
def _rows(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the mask of each byte value, `[256, 8]`."""
    bytes_ = torch.arange(256, device=device).unsqueeze(1)
    return (bytes_ >> torch.arange(8, device=device) & 1).to(dtype)
