"""Compile the Triton kernels for GPUs that this machine need not have, and print the results as JSON.

Run in a separate process: if kernels are interpreted, Triton cannot compile.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from dsprune.kernels import triton_kernels
from dsprune.selection.search import BINS

TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}
TABLE = {"table": "*i64", "owners": "*i32"}
TIES = {"ties": "*i64"}
PRODUCT = {"VALUES_DTYPE": tl.float32, "ROOT_DTYPE": tl.float32, "ABSOLUTE": True}
KERNELS: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {
    "mask 32": ("mask_kernel", TABLE, {"DTYPE": tl.int32}),
    "mask 16": ("mask_kernel", TABLE, {"DTYPE": tl.int16}),
    "count": ("count_kernel", TABLE, PRODUCT | {"NUM_BINS": BINS}),
    "settle": ("settle_kernel", TABLE | TIES, PRODUCT | {"IS_PARTED": False}),
    "settle some ties": ("settle_kernel", TABLE | TIES, PRODUCT | {"IS_PARTED": True}),
    "sample": ("sample_kernel", TABLE, PRODUCT),
}


def compiled(kernel: str, target: str) -> dict[str, int]:
    """Return registers, bytes of spills, and bytes of the widest load of weights of a kernel."""
    name, signature, constants = KERNELS[kernel]
    function = getattr(triton_kernels, name)
    source = ASTSource(
        function,
        signature | dict.fromkeys(constants, "constexpr"),
        {(function.arg_names.index(key),): value for key, value in constants.items()},
    )
    options = {"num_warps": triton_kernels.WARPS}
    binary = triton.compile(source, target=GPUTarget(*TARGETS[target]), options=options)
    return read_amd(binary.asm["amdgcn"]) if target == "gfx942" else read_nvidia(binary.asm["ptx"], target)


def read_amd(assembly: str) -> dict[str, int]:
    """Read the notes in the assembly."""
    [registers], [spills] = (
        re.findall(rf"\.vgpr_{name}:\s*(\d+)", assembly) for name in ("count", "spill_count")
    )
    widths = [int(width or 1) for width in re.findall(r"(?:global|buffer)_load_dword(?:x(\d))?\b", assembly)]
    return {"registers": int(registers), "spills": int(spills), "load": 4 * max(widths)}


def read_nvidia(assembly: str, target: str) -> dict[str, int]:
    """Read the output of the assembler."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(assembly)
        [architecture] = re.findall(r"^\.target (\w+)", assembly, re.MULTILINE)
        assembler = get_ptxas(int(target[3:])).path
        command = [assembler, "-v", f"--gpu-name={architecture}", path, "-o", path.with_suffix(".o")]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    [registers], [spills] = (
        re.findall(r"Used (\d+) registers", said),
        re.findall(r"(\d+) bytes spill stores", said),
    )
    return {"registers": int(registers), "spills": int(spills), "load": max(widths(assembly))}


def widths(assembly: str) -> Iterator[int]:
    """Yield the bytes of each load."""
    for count, bits in re.findall(r"ld\.global(?:\.v(\d))?\.b(\d+)", assembly):
        yield int(count or 1) * int(bits) // 8


if __name__ == "__main__":
    json.dump(
        {f"{kernel} {target}": compiled(kernel, target) for kernel in KERNELS for target in TARGETS},
        sys.stdout,
    )
