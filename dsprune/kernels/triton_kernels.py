"""The Triton kernels. A launch covers all weights of a rank, in segments anywhere in memory.

A table has a row of 64-bit integers for each segment, among them addresses. A program works on one block of a segment;
`owners` has the segment of each block. Rows of eight weights are one byte of the packed mask, so a thread reads a byte
and its weights in vectors. This needs aligned addresses: other blocks, and the last block of a segment, use predicated
loads.

The eager versions of the kernels are those of the compiled functions, see `dsprune.kernels.cpu`.
"""

import triton
import triton.language as tl

__all__ = ["BLOCK", "COLUMNS", "SAMPLES", "count_kernel", "mask_kernel", "sample_kernel", "settle_kernel"]

ROWS: tl.constexpr = tl.constexpr(512)
BLOCK: tl.constexpr = tl.constexpr(4096)  # weights of a block
# Keys of a block that are counted one by one: about the number in a bracket.
FEW: tl.constexpr = tl.constexpr(128)
WARPS = 8  # of a program: 16 weights per thread, so that the registers suffice for many threads
SAMPLES: tl.constexpr = tl.constexpr(1024)  # sampled weights of a block

# Columns of the table: four addresses, then numbers. The counts of `count_kernel` follow in the row.
VALUES: tl.constexpr = tl.constexpr(0)
ROOT: tl.constexpr = tl.constexpr(1)
KEPT: tl.constexpr = tl.constexpr(2)
OUTPUT: tl.constexpr = tl.constexpr(3)  # what a kernel writes of the segment
NUMEL: tl.constexpr = tl.constexpr(4)  # of the segment, or of its sample
FIRST_BLOCK: tl.constexpr = tl.constexpr(5)
SCALE: tl.constexpr = tl.constexpr(6)  # the bits of a float32
LOW: tl.constexpr = tl.constexpr(7)
HIGH: tl.constexpr = tl.constexpr(8)
BIN_BITS: tl.constexpr = tl.constexpr(9)
START: tl.constexpr = tl.constexpr(10)
STRIDE: tl.constexpr = tl.constexpr(11)
QUOTA: tl.constexpr = tl.constexpr(12)  # of the keys that are LOW; -1: all of them
COLUMNS: tl.constexpr = tl.constexpr(13)

PRUNED_KEY: tl.constexpr = tl.constexpr(-(2**31))
NAN_KEY: tl.constexpr = tl.constexpr(2**31 - 1)


@triton.jit
def mask_kernel(table, owners, DTYPE: tl.constexpr):  # noqa: N803
    """Set the pruned weights to zero, all bits. DTYPE is the integer type of their size."""
    segment, first, numel = _block(table, owners)
    at, _ = _places()
    values = tl.load(segment + VALUES) + first * (DTYPE.primitive_bitwidth // 8)
    keep = _unpack(tl.load(segment + KEPT), first, numel)
    if (values % 16 == 0) & (first + BLOCK <= numel):
        words = _vectors(values, DTYPE) + at
        tl.store(words, tl.where(keep, tl.load(words), 0))
    else:
        words = values.to(tl.pointer_type(DTYPE)) + at
        inside = first + at < numel
        tl.store(words, tl.where(keep, tl.load(words, mask=inside, other=0), 0), mask=inside)


@triton.jit
def count_kernel(
    table,
    owners,
    VALUES_DTYPE: tl.constexpr,  # noqa: N803
    ROOT_DTYPE: tl.constexpr,  # noqa: N803
    ABSOLUTE: tl.constexpr,  # noqa: N803
    NUM_BINS: tl.constexpr,  # noqa: N803
):
    """Count, in the row after its columns, the keys not below LOW, the NaNs, and the keys from LOW to HIGH by bins.

    A bin has `2**BIN_BITS` keys. Atomic additions of equal keys to one address are slow, so a block with many keys in
    the range first counts them locally.
    """
    segment, _, _, keys = _block_keys(
        table, owners, VALUES_DTYPE, ROOT_DTYPE, ABSOLUTE, COLUMNS + 2 + NUM_BINS
    )
    low = tl.load(segment + LOW).to(tl.int32)
    keeps = keys >= low
    inside = keeps & (keys <= tl.load(segment + HIGH).to(tl.int32))
    bin_bits = tl.load(segment + BIN_BITS).to(tl.uint32)
    distance = (keys - low).to(tl.uint32, bitcast=True)  # it may take 32 bits
    bins = (distance >> bin_bits).to(tl.int32)
    counts = segment + COLUMNS
    tl.atomic_add(counts, _total(keeps), sem="relaxed")
    tl.atomic_add(counts + 1, _total(keys == NAN_KEY), sem="relaxed")
    num_inside = _total(inside)
    if num_inside > FEW:
        numbers = tl.arange(0, NUM_BINS)
        found = tl.histogram(tl.reshape(tl.where(inside, bins, 0), [BLOCK]), NUM_BINS)
        found -= tl.where(numbers == 0, BLOCK - num_inside, 0)  # the other keys were counted there
        tl.atomic_add(counts + 2 + numbers, found, mask=found != 0, sem="relaxed")
    else:
        tl.atomic_add(counts + 2 + bins, 1, mask=inside, sem="relaxed")


@triton.jit
def settle_kernel(
    table,
    owners,
    ties,
    VALUES_DTYPE: tl.constexpr,  # noqa: N803
    ROOT_DTYPE: tl.constexpr,  # noqa: N803
    ABSOLUTE: tl.constexpr,  # noqa: N803
    IS_PARTED: tl.constexpr,  # noqa: N803
):
    """Write masks to OUTPUT that prune the keys below LOW, and in each segment the first QUOTA keys that are LOW.

    A segment that prunes some but not all of these takes two launches. The first, without IS_PARTED, writes to `ties`
    the number of keys of each block that are LOW. The second reads the sums of these up to each block.
    """
    number = tl.program_id(0)
    quota = tl.load(table + tl.load(owners + number).to(tl.int64) * COLUMNS + QUOTA)
    if IS_PARTED:  # noqa: SIM102 (known when Triton compiles)
        if quota <= 0:
            return
    segment, first, numel, keys = _block_keys(table, owners, VALUES_DTYPE, ROOT_DTYPE, ABSOLUTE)
    low = tl.load(segment + LOW).to(tl.int32)
    is_tie = (keys == low).to(tl.int32)
    in_rows = tl.sum(is_tie, axis=1)
    if IS_PARTED:
        begin = tl.load(segment + FIRST_BLOCK)
        quota -= tl.load(ties + number - 1, mask=number > 0, other=0)
        quota += tl.load(ties + begin - 1, mask=begin > 0, other=0)
        before = (tl.cumsum(in_rows, 0) - in_rows)[:, None] + tl.cumsum(is_tie, 1) - is_tie
        keeps = (keys > low) | ((is_tie != 0) & (before >= quota))
    else:
        tl.store(ties + number, tl.sum(in_rows, axis=0))
        keeps = (keys > low) | ((is_tie != 0) & (quota == 0))
    _, columns = _places()
    rows = tl.arange(0, ROWS)
    packed = (tl.load(segment + OUTPUT) + first // 8).to(tl.pointer_type(tl.uint8))
    bits = tl.sum(keeps.to(tl.int32) << columns, axis=1)
    tl.store(packed + rows, bits.to(tl.uint8), mask=first + 8 * rows < numel)


@triton.jit
def sample_kernel(
    table,
    owners,
    VALUES_DTYPE: tl.constexpr,  # noqa: N803
    ROOT_DTYPE: tl.constexpr,  # noqa: N803
    ABSOLUTE: tl.constexpr,  # noqa: N803
):
    """Write the keys of every STRIDE-th weight, starting at START, to OUTPUT."""
    segment = table + tl.load(owners + tl.program_id(0)).to(tl.int64) * COLUMNS
    count = (tl.program_id(0) - tl.load(segment + FIRST_BLOCK)) * SAMPLES + tl.arange(0, SAMPLES)
    valid = count < tl.load(segment + NUMEL)
    at = tl.load(segment + START) + count * tl.load(segment + STRIDE)
    packed = tl.load(tl.load(segment + KEPT).to(tl.pointer_type(tl.uint8)) + at // 8, mask=valid, other=0)
    keep = (packed.to(tl.int32) >> (at % 8).to(tl.int32)) & 1
    values = tl.load(segment + VALUES).to(tl.pointer_type(VALUES_DTYPE)) + at
    scores = tl.load(values, mask=valid, other=0).to(tl.float32)
    if tl.int8 != ROOT_DTYPE:
        root = tl.load(segment + ROOT).to(tl.pointer_type(ROOT_DTYPE)) + at
        scores *= tl.sqrt_rn(tl.load(root, mask=valid, other=0).to(tl.float32))
    found = _keys(scores, segment, keep != 0, ABSOLUTE)
    tl.store(tl.load(segment + OUTPUT).to(tl.pointer_type(tl.int32)) + count, found, mask=valid)


@triton.jit
def _block(table, owners, WIDTH: tl.constexpr = COLUMNS):  # noqa: N803
    """Return the row of the program's segment, the block's first weight in it, and the number of its weights."""
    segment = table + tl.load(owners + tl.program_id(0)).to(tl.int64) * WIDTH
    first = (tl.program_id(0) - tl.load(segment + FIRST_BLOCK)) * BLOCK
    return segment, first, tl.load(segment + NUMEL)


@triton.jit
def _vectors(address, DTYPE: tl.constexpr):  # noqa: N803
    """Return the pointer to an address, and tell the compiler that it is a multiple of 16."""
    return tl.multiple_of(address.to(tl.pointer_type(DTYPE)), 16)


@triton.jit
def _places():
    """Return the places of a block's weights, `[ROWS, 8]`, and the numbers of their bits, `[1, 8]`."""
    columns = tl.arange(0, 8)[None, :]
    return tl.arange(0, ROWS)[:, None] * 8 + columns, columns


@triton.jit
def _unpack(kept, first, numel):
    """Return the boolean mask of a block, `[ROWS, 8]`; False after the end of the segment."""
    rows = tl.arange(0, ROWS)
    packed = (kept + first // 8).to(tl.pointer_type(tl.uint8)) + rows
    bits = tl.load(packed, mask=first + 8 * rows < numel, other=0).to(tl.int32)
    return ((bits[:, None] >> tl.arange(0, 8)[None, :]) & 1) != 0


@triton.jit
def _block_keys(
    table,
    owners,
    VALUES_DTYPE: tl.constexpr,  # noqa: N803
    ROOT_DTYPE: tl.constexpr,  # noqa: N803
    ABSOLUTE: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr = COLUMNS,  # noqa: N803
):
    """Return the results of `_block`, and the keys of the block, `[ROWS, 8]`."""
    segment, first, numel = _block(table, owners, WIDTH)
    at, _ = _places()
    keep = _unpack(tl.load(segment + KEPT), first, numel)
    values = tl.load(segment + VALUES) + first * (VALUES_DTYPE.primitive_bitwidth // 8)
    root = tl.load(segment + ROOT) + first * (ROOT_DTYPE.primitive_bitwidth // 8)
    if (values % 16 == 0) & (root % 16 == 0) & (first + BLOCK <= numel):
        scores = tl.load(_vectors(values, VALUES_DTYPE) + at).to(tl.float32)
        if tl.int8 != ROOT_DTYPE:
            scores *= tl.sqrt_rn(tl.load(_vectors(root, ROOT_DTYPE) + at).to(tl.float32))
    else:
        valid = first + at < numel
        scores = tl.load(values.to(tl.pointer_type(VALUES_DTYPE)) + at, mask=valid, other=0).to(tl.float32)
        if tl.int8 != ROOT_DTYPE:
            scores *= tl.sqrt_rn(
                tl.load(root.to(tl.pointer_type(ROOT_DTYPE)) + at, mask=valid, other=0).to(tl.float32)
            )
    return segment, first, numel, _keys(scores, segment, keep, ABSOLUTE)


@triton.jit
def _total(found):
    """Return the number of true entries in `[ROWS, 8]`."""
    return tl.sum(tl.sum(found.to(tl.int32), axis=1), axis=0)


@triton.jit
def _keys(scores, segment, keep, ABSOLUTE: tl.constexpr):  # noqa: N803
    """Return the keys of scores before their scale: see `dsprune.selection.scan.to_keys`."""
    scores = scores * tl.load(segment + SCALE).to(tl.int32).to(tl.float32, bitcast=True)
    bits = scores.to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    keys = magnitude
    if not ABSOLUTE:
        keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)) + (bits == PRUNED_KEY).to(tl.int32)  # -0.0 as +0.0
    keys = tl.where(magnitude > 0x7F800000, NAN_KEY, keys)
    return tl.where(keep, keys, PRUNED_KEY)
