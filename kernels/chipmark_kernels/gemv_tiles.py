"""The tile of a product of one row: so many rows of the weight a block that all blocks run at once.

A grid of a little over what the device holds ends in a second wave that reads with few blocks, and
one with little on its way waits for memory. So the rule counts both. Unverified on hardware.
"""

from __future__ import annotations

from collections.abc import Mapping

from chipmark_kernels.device import DeviceFacts
from chipmark_kernels.dtypes import ceil_div
from chipmark_kernels.tile import Tile

REGISTERS = 65_536
"""Of a multiprocessor, of every NVIDIA capability from 8.0 to 10.0; they are dealt out in eights a
thread. So are 64 warps (CUDA C++ Programming Guide, technical specifications)."""
MOST_WARPS = 64
MOST_BLOCKS = 32

IN_FLIGHT_BYTES = 40 * 1024
"""Of weights asked for by a multiprocessor. 4.3 TB/s of an H200's 132 times 0.8 us of latency are
26 KB (Little's law); half as much again, as a block asks for its tiles one after another."""

_VECTOR_BYTES = 16
_SHAPES = ((8, 1), (4, 2), (2, 4))
"""Rows of the weight and warps of a block, from what reads x least often to what has most on its
way; each has 4 KB a tile."""


def registers(weight_rows: int) -> int:
    """At most so many registers a thread with so many rows of the weight in a tile, gate and up
    counted apart: two tiles of 4 each a row, its sums and its place, and what holds x and its norm.
    Read from the machine code for sm_90 (`tests/kernels/test_gemv_hopper.py` holds it to that).
    Triton 3.6 takes up to 160 for e4m3 weights behind a norm, so that fewer blocks run at once.
    """
    return ceil_div(30 + 12 * weight_rows, 8) * 8


def places(weight_rows: int, warps: int, device: DeviceFacts) -> int:
    """Blocks that run on the device at once."""
    by_registers = REGISTERS // (registers(weight_rows) * device.warp_size * warps)
    return device.n_sm * min(by_registers, MOST_WARPS // warps, MOST_BLOCKS)


def waves(tile: Tile, n_cols: int, glu: bool, device: DeviceFacts) -> float:
    """Blocks of a product with n_cols results for each place that there is."""
    rows = tile.n * (1 + glu)
    return ceil_div(n_cols, tile.n) / places(rows, tile.num_warps, device)


def gemv_tile(dtype: str, shape: Mapping[str, int], device: DeviceFacts) -> Tile:
    """The tile for shape n, k and glu, of inputs of `dtype` (Triton's name).

    The first of the shapes that takes one wave with enough bytes on its way; the first of all where
    none takes one wave; and that with the most on its way where none has enough.
    """
    size = {"fp32": 4}.get(dtype, 2)
    n_cols, glu = shape["n"], bool(shape["glu"])
    found: list[tuple[int, Tile]] = []
    for rows, warps in _SHAPES:
        k = _VECTOR_BYTES // size * device.warp_size * warps
        tile = Tile(m=1, n=rows // (1 + glu), k=k, num_warps=warps, num_stages=1)
        if found and (k > shape["k"] or waves(tile, n_cols, glu, device) > 1):
            continue
        blocks = min(ceil_div(n_cols, tile.n), places(rows, warps, device))
        in_flight = 2 * blocks * rows * k * size // device.n_sm
        if in_flight >= IN_FLIGHT_BYTES:
            return tile
        found.append((in_flight, tile))
    return max(found, key=lambda pair: pair[0])[1]
