"""Which tile a kernel runs with: a pure function of kernel, dtype, shape and device.

The rules start from published designs (row kernels: one vector of 16 bytes a thread; attention and
GEMM: blocks that fill the matrix unit and pipeline stages that fit the shared memory). Measured
tiles of a product override them from `tuned/PRODUCT.json`. Nothing is tuned while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType

from chipmark_kernels import tuned
from chipmark_kernels.device import DeviceFacts
from chipmark_kernels.dtypes import ceil_div, next_power_of_2
from chipmark_kernels.gemv_tiles import gemv_tile
from chipmark_kernels.tile import Tile as Tile

BITS = MappingProxyType({"fp32": 32, "fp16": 16, "bf16": 16, "fp8e4nv": 8, "i8": 8})


Shape = Mapping[str, int]
Rule = Callable[[str, Shape, DeviceFacts], Tile]


def _power_of_2_up_to(n: int) -> int:
    """The largest power of two that is no more than n, at least 1."""
    return 1 << (max(n, 1).bit_length() - 1)


def _row_warps(cols: int, bits: int, device: DeviceFacts, most: int = 8) -> int:
    """Warps with which a thread holds one or two 16-byte vectors of a row."""
    vector = 128 // bits
    return min(max(next_power_of_2(cols) // (2 * vector * device.warp_size), 1), most)


def _row(dtype: str, shape: Shape, device: DeviceFacts) -> Tile:
    warps = _row_warps(shape["cols"], BITS[dtype], device)
    return Tile(n=next_power_of_2(shape["cols"]), num_warps=warps, num_stages=1)


def _swiglu(dtype: str, shape: Shape, device: DeviceFacts) -> Tile:
    n = min(next_power_of_2(shape["cols"]), 16 * 1024 // BITS[dtype])
    return Tile(n=n, num_warps=_row_warps(n, BITS[dtype], device, 4), num_stages=1)


def _sum_splits(dtype: str, shape: Shape, device: DeviceFacts) -> Tile:
    return Tile(n=min(next_power_of_2(shape["cols"]), 512), k=512, num_warps=2, num_stages=1)


def _rope_kv(dtype: str, shape: Shape, device: DeviceFacts) -> Tile:
    # As many heads as give each thread of one warp a 16-byte vector of half a head.
    half = next_power_of_2(shape["head_dim"]) // 2
    vectors = max(half * BITS[dtype] // 128, 1)
    return Tile(m=max(device.warp_size // vectors, 1), num_warps=1, num_stages=1)


def _stages(device: DeviceFacts, stage_bytes: int, fixed_bytes: int, most: int) -> int:
    """Pipeline stages that fit, leaving a tenth of the shared memory to the compiler."""
    if device.vendor == "hip":
        # One stage is in registers there; a second already doubles the LDS.
        most = min(most, 2)
    room = device.smem_per_block_bytes * 9 // 10 - fixed_bytes
    return min(max(room // stage_bytes, 1), most)


def _prefill_attention(dtype: str, shape: Shape, device: DeviceFacts) -> Tile:
    size = BITS[dtype] // 8
    dim = max(next_power_of_2(shape["head_dim"]), 16)
    widest = 128 if device.vendor == "cuda" and dim <= 128 else 64
    if size == 4:
        # Exact fp32 products have no matrix unit and hold their operands in registers.
        widest = 16
    m = min(max(next_power_of_2(shape["rows"]), 16, next_power_of_2(shape["group"])), widest)
    n = 64 if size == 2 else 16
    # K and V of one step; the queries stay with them.
    stages = _stages(device, 2 * n * dim * size, m * dim * size, 3 if size == 2 else 2)
    # Four warps share one product of 64 rows where the matrix unit takes such; elsewhere each warp
    # holds its own, and 64 rows of fp32 sums in four warps would not fit the registers.
    wide_units = device.arch in (90, 100, 103)
    warps = 8 if m == 128 or (m == 64 and device.vendor == "cuda" and not wide_units) else 4
    return Tile(m=m, n=n, num_warps=warps, num_stages=stages)


def _decode_attention(dtype: str, shape: Shape, device: DeviceFacts) -> Tile:
    size = BITS[dtype] // 8
    dim = max(next_power_of_2(shape["head_dim"]), 16)
    m = max(next_power_of_2(shape["group"]), 16)
    n = 64 if size == 2 else 16
    # Two programs a multiprocessor, each with three blocks on their way, cover the latency; more
    # places would only end at once in short contexts. Never under two parts, for a long sequence
    # among short ones would be one program's alone.
    programs = shape["seqs"] * shape["kv_heads"]
    wanted = max(_power_of_2_up_to(2 * device.n_sm // programs), 2)
    split = min(wanted, _power_of_2_up_to(shape["context"] // n), 128)
    # Where more programs than that wait for a place, three of them fit instead of two.
    most = (4 if programs * split <= 2 * device.n_sm else 3) if size == 2 else 2
    stages = _stages(device, 2 * n * dim * size, m * dim * size, most)
    return Tile(m=m, n=n, split=split, num_warps=4, num_stages=stages)


def _rope_decode_attention(dtype: str, shape: Shape, device: DeviceFacts) -> Tile:
    # k: splits that the merge reads at once, in 64 values a thread.
    tile = _decode_attention(dtype, shape, device)
    heads = next_power_of_2(shape["group"])
    dim = max(next_power_of_2(shape["head_dim"]), 16)
    merged = max(64 * tile.num_warps * device.warp_size // (heads * dim), 1)
    return replace(tile, k=min(_power_of_2_up_to(merged), tile.split))


def _merge_splits(dtype: str, shape: Shape, device: DeviceFacts) -> Tile:
    # Rows behind the last split are masked; fewer than 16 would leave threads without a vector.
    return Tile(n=16, num_warps=4, num_stages=1)


def _skinny_gemm(dtype: str, shape: Shape, device: DeviceFacts) -> Tile:
    rows, n_cols, k_size = shape["rows"], shape["n"], shape["k"]
    size, n_weights = BITS[dtype] // 8, 1 + shape["glu"]
    if rows == 1:
        # Four blocks a multiprocessor with 8 KB each in flight cover the latency of memory.
        k = min(2048 // size, next_power_of_2(k_size))
        # A vocabulary in fours would leave the grid's limit.
        n = 4 if n_cols <= 128 * 1024 else 8
        split = _split_k(ceil_div(n_cols, n), k_size, k, device)
        return Tile(m=1, n=n, k=k, split=split, num_warps=4, num_stages=1)
    m = min(max(next_power_of_2(rows), 16), 64)
    # Exact fp32 products have no matrix unit and hold their operands in registers: half the depth,
    # 16 columns where there are two products, and two sums a thread, not four; in 256 threads at
    # most, of which each still loads 16 bytes of x at once.
    exact = size == 4
    n = 32 if ceil_div(n_cols, 32) >= device.n_sm and not (exact and shape["glu"]) else 16
    k = max((512 if m == 16 else 256) // size // (1 + exact), 32)
    lanes = device.warp_size
    warps = min(m * n // (2 * lanes), 256 // lanes) if exact else min(m * n // 128, 4)
    split = _split_k(ceil_div(n_cols, n) * ceil_div(rows, m), k_size, 2 * k, device)
    stages = _stages(device, (m + n * n_weights) * k * size, 0, 4)
    return Tile(m=m, n=n, k=k, split=split, num_warps=warps, num_stages=stages)


def _fp8a16_gemm(dtype: str, shape: Shape, device: DeviceFacts) -> Tile:
    tile = _skinny_gemm(dtype, shape, device)
    if tile.m == 16 and tile.num_warps == 2:
        # Two warps at the depth of 16-bit weights hold x, its norm and the widened weights in too
        # few registers: in fp16 they spill inside the loop on sm_100.
        return replace(tile, k=tile.k // 2)
    return tile


def _split_k(blocks: int, k_size: int, least_k: int, device: DeviceFacts) -> int:
    """Parts of k until every multiprocessor has two blocks, each part at least `least_k` deep.

    The sum over the parts is a launch more, over 1 us even in a graph; a multiprocessor can read
    more than twice its share of the memory's bandwidth. So two blocks for five
    multiprocessors are let be; the narrowest products of the presets have 64 blocks.
    """
    if blocks * 5 // 2 >= device.n_sm or k_size < 2048:
        return 1
    return min(
        _power_of_2_up_to(2 * device.n_sm // blocks), _power_of_2_up_to(k_size // least_k), 8
    )


def _weight_only_gemm(bits: int, dtype: str, shape: Shape, device: DeviceFacts) -> Tile:
    """bits: of a weight. A group is the largest power of two up to 128 that divides k."""
    rows, n_cols, k_size = shape["rows"], shape["n"], shape["k"]
    group = min(k_size & -k_size, 128)
    n_groups, group_bytes = k_size // group, group * bits // 8
    m = 1 if rows == 1 else min(max(next_power_of_2(rows), 16), 64)
    if m == 1:
        # Rows enough for 16 bytes a thread of one warp, however short a group is.
        n = max(device.warp_size // 4, 16 * device.warp_size // group_bytes)
        split = _split_k(ceil_div(n_cols, n), k_size, 1024, device)
        k = min(512 // group_bytes, n_groups & -n_groups)
    else:
        # Two products of 64 rows and 32 columns would not fit the registers.
        wide = ceil_div(n_cols, 32) >= device.n_sm and m * (1 + shape["glu"]) < 128
        n = 32 if wide else 16
        blocks = ceil_div(n_cols, n) * ceil_div(rows, m)
        split = _split_k(blocks, k_size, 1024, device)
        # Two groups at 32 rows and more would not fit the registers.
        k = min(2 if m == 16 else 1, n_groups & -n_groups)
    # Warps for 16 bytes a thread and for every 16 rows, at most one a 16 x 8 product. Blackwell's
    # assembler holds 4 warps of 16 x 8 to 72 registers and spills in the loop: 32 bytes there.
    vectors = 2 if device.arch in (100, 103) and m == 16 and n == 32 and not shape["glu"] else 1
    warps = max(n * group_bytes // (16 * vectors * device.warp_size), m // 16, 1)
    warps = min(warps, 4 if m == 1 else m * n // 128, 4)
    weights_bytes = n * group_bytes * (1 + shape["glu"])
    stages = _stages(device, k * (m * group * BITS[dtype] // 8 + weights_bytes), 0, 4)
    return Tile(m=m, n=n, k=k, split=split, num_warps=warps, num_stages=1 if m == 1 else stages)


def _fp8_gemm(dtype: str, shape: Shape, device: DeviceFacts) -> Tile:
    m = min(max(next_power_of_2(shape["rows"]), 16), 128)
    # Two accumulators of 128 columns each would not fit the registers.
    n = 32 if m < 64 else 64 if shape["glu"] else 128
    stages = _stages(device, (m + n * (1 + shape["glu"])) * 128, 0, 4)
    return Tile(m=m, n=n, k=128, num_warps=8 if m == 128 else 4, num_stages=stages)


def _dense_gemm_hopper(dtype: str, shape: Shape, device: DeviceFacts) -> Tile:
    # 128 bytes of depth are one swizzled line; two accumulators share the columns of one. On
    # Blackwell a residual next to 256 columns would spill.
    k, n = 1024 // BITS[dtype], 128 if shape["glu"] or device.arch != 90 else 256
    stages = _stages(device, (128 + n * (1 + shape["glu"])) * 128, 0, 4)
    return Tile(m=128, n=n, k=k, num_warps=8, num_stages=stages)


def _sample(dtype: str, shape: Shape, device: DeviceFacts) -> Tile:
    # Wide blocks once there are rows enough to fill the device with them.
    wide = shape["rows"] * ceil_div(shape["vocab"], 4096) >= 2 * device.n_sm
    n = min(4096 if wide else 1024, next_power_of_2(shape["vocab"]))
    vectors = n * BITS[dtype] // 128
    return Tile(n=n, num_warps=min(max(vectors // device.warp_size, 1), 4), num_stages=1)


def _nucleus_cutoff(dtype: str, shape: Shape, device: DeviceFacts) -> Tile:
    n = min(next_power_of_2(shape["vocab"]), 4096)
    return Tile(n=n, num_warps=1024 // device.warp_size // 2, num_stages=1)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "rmsnorm": _row,
        "embedding_rmsnorm": _row,
        "quantize_rows_fp8": _row,
        "best_of_row": _row,
        "swiglu": _swiglu,
        "sum_splits": _sum_splits,
        "qknorm_rope_kvwrite": _rope_kv,
        "prefill_attention": _prefill_attention,
        "decode_attention": _decode_attention,
        "rope_decode_attention": _rope_decode_attention,
        "merge_splits": _merge_splits,
        "skinny_gemm": _skinny_gemm,
        "fp8a16_gemm": _fp8a16_gemm,
        "w8a16_gemm": partial(_weight_only_gemm, 8),
        "w4a16_gemm": partial(_weight_only_gemm, 4),
        "fp8_gemm": _fp8_gemm,
        "dense_gemm_hopper": _dense_gemm_hopper,
        "gemv_hopper": gemv_tile,
        "sample": _sample,
        "nucleus_cutoff": _nucleus_cutoff,
    }
)


def _fitted_to_ascend(kernel: str, tile: Tile) -> Tile:
    """The tile at a size whose buffers bishengir-compile can plan in 192 KB.

    Found with `chipmark kernels ahead --target ascend910b3`: what is over the limit overflows the
    unified buffer at some preset. Not timed on a chip.
    """
    most_n = {"sample": 2048, "nucleus_cutoff": 2048}.get(kernel, tile.n)
    most_m = 32 if kernel == "skinny_gemm" else tile.m
    return replace(tile, m=min(tile.m, most_m), n=min(tile.n, most_n))


def bucketed(shape: Shape) -> dict[str, int]:
    """`shape` with its row-like sizes rounded up to a power of two, as tuned tables are keyed."""
    loose = ("rows", "seqs", "context")
    return {key: next_power_of_2(n) if key in loose else n for key, n in shape.items()}


@lru_cache(maxsize=4096)
def choose(kernel: str, dtype: str, device: DeviceFacts, **shape: int) -> Tile:
    """The tile for `kernel` (a key of RULES); a tuned one where its product's table has it.

    dtype: Triton's name of the input's. shape: the sizes that the kernel's rule reads.
    Raises KeyError for a kernel or a size that is not known.
    """
    measured = tuned.tuned_tile(device.product, kernel, dtype, bucketed(shape))
    if measured is not None:
        return measured
    tile = RULES[kernel](dtype, shape, device)
    return _fitted_to_ascend(kernel, tile) if device.vendor == "npu" else tile


@contextmanager
def tables_in(folder: Path) -> Iterator[None]:
    """Take the measured tiles from the tables of another folder."""
    before, tuned.TUNED_FOLDER = tuned.TUNED_FOLDER, folder
    choose.cache_clear()
    try:
        yield
    finally:
        tuned.TUNED_FOLDER = before
        choose.cache_clear()
