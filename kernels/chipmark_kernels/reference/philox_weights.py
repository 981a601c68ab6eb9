"""Seeded weights by integer operations of torch, on any device that has 64-bit integers."""

from __future__ import annotations

import torch

SUMS = 1_021
"""Values that a sum of four bytes may have."""

BLOCK_WEIGHTS = 8
"""Weights that one count of the generator makes."""

_M0, _M1 = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_W0, _W1 = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_LOW = 0xFFFFFFFF
_CHUNK = 1 << 20
"""Counts a step: bounds the temporaries."""


def _signed(bits: int) -> int:
    bits &= 2**64 - 1
    return bits - (bits >> 63 << 64)


def key_words(key: int) -> tuple[int, int]:
    """The two halves of a 128-bit key, lowest first, as int64 has their bits."""
    return _signed(key), _signed(key >> 64)


def check_table(table: torch.Tensor) -> None:
    """ValueError for what is not (1021,) and contiguous."""
    if table.shape != (SUMS,) or not table.is_contiguous():
        raise ValueError(f"table: {SUMS} values in a row are needed, not {tuple(table.shape)}")


def _high(x: torch.Tensor) -> torch.Tensor:
    """The upper 32 bits; `>>` of torch repeats the sign."""
    return (x >> 32) & _LOW


def multiply_high(x: torch.Tensor, by: int) -> torch.Tensor:
    """Upper 64 bits of unsigned x * by, the bits of both in int64."""
    low, high = by & _LOW, by >> 32 & _LOW
    x_low, x_high = x & _LOW, _high(x)
    middle = x_high * low + _high(x_low * low)
    other = x_low * high + (middle & _LOW)
    return x_high * high + _high(middle) + _high(other)


def philox_weights_reference(table: torch.Tensor, key: int, n_weights: int) -> torch.Tensor:
    """As `chipmark_kernels.philox_weights.philox_weights`."""
    check_table(table)
    out = table.new_empty(n_weights)
    n_counts = -(-n_weights // BLOCK_WEIGHTS)
    for start in range(0, n_counts, _CHUNK):
        stop = min(start + _CHUNK, n_counts)
        sums = _sums(torch.arange(start + 1, stop + 1, device=table.device), key)
        part = out[start * BLOCK_WEIGHTS : stop * BLOCK_WEIGHTS]
        part.copy_(table[sums.view(-1)[: part.numel()]])
    return out


def _sums(count: torch.Tensor, key: int) -> torch.Tensor:
    """Sums of four bytes (counts, 8)."""
    zero = torch.zeros_like(count)
    a, b, c, d = count, zero, zero, zero
    k0, k1 = key_words(key)
    for _ in range(10):
        high0, low0 = multiply_high(a, _M0), a * _signed(_M0)
        high1, low1 = multiply_high(c, _M1), c * _signed(_M1)
        a, b, c, d = high1 ^ b ^ k0, low1, high0 ^ d ^ k1, low0
        k0, k1 = _signed(k0 + _W0), _signed(k1 + _W1)
    words = torch.stack((a, b, c, d), -1)
    halves = torch.stack((words & _LOW, _high(words)), -1).flatten(1)
    return sum(halves >> shift & 0xFF for shift in (0, 8, 16, 24))  # type: ignore[return-value]
