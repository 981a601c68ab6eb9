from __future__ import annotations

import pytest
import torch

from chipmark_kernels.fp8_gemm import fp8_gemm, quantize_rows_fp8
from chipmark_kernels.reference.gemm import (
    dequantize_int4,
    dequantize_int8,
    fp8_gemm_reference,
    quantize_rows_fp8_reference,
    skinny_gemm_reference,
    w4a16_gemm_reference,
    w8a16_gemm_reference,
)
from chipmark_kernels.skinny_gemm import skinny_gemm
from chipmark_kernels.tiles import Tile
from chipmark_kernels.weight_only import quantize_int4, quantize_int8, w4a16_gemm, w8a16_gemm

SLOW = pytest.mark.slow
FLOATS = [torch.float32, torch.float16]
SHAPES = [
    (1, 33, 123),
    (3, 40, 200),
    (17, 16, 64),
    pytest.param(1, 64, 512, marks=SLOW),
    pytest.param(16, 48, 256, marks=SLOW),
    pytest.param(64, 33, 123, marks=SLOW),
    pytest.param(65, 16, 64, marks=SLOW),
]


def _tile(rows: int, split: int, k: int = 32) -> Tile:
    return Tile(m=1 if rows == 1 else 16, n=16, k=k, split=split)


WEIGHT_ONLY = [
    pytest.param(torch.float16, 1, 128, 1, 2, False, id="row"),
    pytest.param(torch.float32, 1, 32, 3, 2, True, id="row-uneven-splits"),
    pytest.param(torch.float16, 3, 128, 1, 1, True, id="rows"),
    pytest.param(torch.float32, 3, 32, 2, 2, False, id="rows-small-groups"),
    *(
        pytest.param(dtype, rows, group, split, k, glu, marks=SLOW)
        for dtype in FLOATS
        for rows in (1, 33)
        for group in (32, 128)
        for split in (1, 2, 3)
        for k in (1, 2)
        for glu in (False, True)
    ),
]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("rows", "n", "k"), SHAPES)
@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_skinny_gemm_agrees_with_fp64(dtype, rows, n, k, split, bias, rng, assert_accurate) -> None:
    x = torch.randn(rows, k, generator=rng).to(dtype)
    w = torch.randn(n, k, generator=rng).to(dtype)
    b = torch.randn(n, generator=rng).to(dtype) if bias else None
    got = skinny_gemm(x, w, b, tile=_tile(rows, split))
    oracle = skinny_gemm_reference(x.double(), w.double(), None if b is None else b.double())
    assert_accurate(got, oracle, skinny_gemm_reference(x, w, b))


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("split", [1, 2])
def test_the_swiglu_epilogue_equals_the_two_steps(rows, split, rng, assert_accurate) -> None:
    x = torch.randn(rows, 96, generator=rng)
    w = torch.randn(2 * 33, 96, generator=rng) / 10
    b = torch.randn(2 * 33, generator=rng)
    got = skinny_gemm(x, w, b, swiglu=True, tile=_tile(rows, split))
    oracle = skinny_gemm_reference(x.double(), w.double(), b.double(), swiglu=True)
    assert_accurate(got, oracle, skinny_gemm_reference(x, w, b, swiglu=True))


def test_bf16_of_one_row_needs_no_matrix_unit(rng, assert_accurate) -> None:
    x = torch.randn(1, 100, generator=rng).bfloat16()
    w = torch.randn(20, 100, generator=rng).bfloat16()
    got = skinny_gemm(x, w, tile=_tile(1, 2))
    oracle = skinny_gemm_reference(x.double(), w.double())
    assert_accurate(got, oracle, skinny_gemm_reference(x, w))


def test_more_splits_than_steps_leave_empty_splits_at_zero(rng) -> None:
    x, w = torch.randn(2, 32, generator=rng), torch.randn(16, 32, generator=rng)
    workspace = torch.full((8 * 2 * 16,), float("nan"))
    got = skinny_gemm(x, w, tile=_tile(2, 8), workspace=workspace)
    torch.testing.assert_close(got, x @ w.T, rtol=1e-5, atol=1e-5)


def test_a_small_workspace_is_refused_with_the_size_needed(rng) -> None:
    x, w = torch.randn(2, 32, generator=rng), torch.randn(16, 32, generator=rng)
    with pytest.raises(ValueError, match="has 3 elements, 64 are needed"):
        skinny_gemm(x, w, tile=_tile(2, 2), workspace=torch.empty(3))


def test_int8_is_within_half_a_step_and_int4_too(rng) -> None:
    w = torch.randn(6, 256, generator=rng)
    q8, s8 = quantize_int8(w, 128)
    q4, s4 = quantize_int4(w, 128)
    step8 = s8.repeat_interleave(128, 1)
    step4 = s4.repeat_interleave(128, 1)
    assert ((dequantize_int8(q8, s8, torch.float32) - w).abs() <= step8 * 0.5001).all()
    assert ((dequantize_int4(q4, s4, None, torch.float32) - w).abs() <= step4 * 0.5001).all()
    assert q4.shape == (6, 128)
    assert s4.shape == (6, 2)


def test_rows_of_zeros_quantise_to_zeros() -> None:
    w = torch.zeros(2, 64)
    assert torch.equal(dequantize_int8(*quantize_int8(w, 32), torch.float32), w)
    packed, scales = quantize_int4(w, 32)
    assert torch.equal(dequantize_int4(packed, scales, None, torch.float32), w)


@pytest.mark.parametrize(("dtype", "rows", "group", "split", "k", "swiglu"), WEIGHT_ONLY)
def test_weight_only_gemms_agree_with_fp64(
    dtype, rows, group, split, k, swiglu, rng, assert_accurate
) -> None:
    x = torch.randn(rows, 256, generator=rng).to(dtype)
    w = torch.randn(2 * 19, 256, generator=rng) / 16
    bias = torch.randn(2 * 19, generator=rng).to(dtype)
    tile = _tile(rows, split, k)
    q8, s8 = quantize_int8(w, group)
    got = w8a16_gemm(x, q8, s8, bias, swiglu=swiglu, tile=tile)
    oracle = w8a16_gemm_reference(x.double(), q8, s8, bias.double(), swiglu=swiglu)
    assert_accurate(got, oracle, w8a16_gemm_reference(x, q8, s8, bias, swiglu=swiglu))
    q4, s4 = quantize_int4(w, group)
    zeros = torch.randint(6, 10, s4.shape, generator=rng).to(dtype)
    for z in (None, zeros):
        got = w4a16_gemm(x, q4, s4, z, bias, swiglu=swiglu, tile=tile)
        oracle = w4a16_gemm_reference(x.double(), q4, s4, z, bias.double(), swiglu=swiglu)
        assert_accurate(got, oracle, w4a16_gemm_reference(x, q4, s4, z, bias, swiglu=swiglu))


@pytest.mark.parametrize("groups", [4, 5, 8])
def test_a_group_that_is_no_power_of_two_or_too_small_is_refused(groups) -> None:
    with pytest.raises(ValueError, match="a group is a power of two >= 32"):
        w8a16_gemm(torch.ones(1, 192), torch.ones(4, 192, dtype=torch.int8), torch.ones(4, groups))


@pytest.mark.parametrize(("rows", "n", "k"), [(1, 16, 64), (17, 40, 100)])
def test_fp8_gemm_agrees_with_fp64(rows, n, k, rng, assert_accurate) -> None:
    x, xs = quantize_rows_fp8_reference(torch.randn(rows, k, generator=rng))
    w, ws = quantize_rows_fp8_reference(torch.randn(n, k, generator=rng))
    got = fp8_gemm(x, xs, w, ws, torch.float32, tile=Tile(m=16, n=16, k=32))
    assert_accurate(got, fp8_gemm_reference(x, xs, w, ws, torch.float64))


def test_fp8_rows_are_scaled_to_the_format_and_zero_rows_stay_zero(rng) -> None:
    x = torch.randn(4, 123, generator=rng)
    x[2] = 0.0
    values, scales = quantize_rows_fp8(x)
    _, expected = quantize_rows_fp8_reference(x)
    torch.testing.assert_close(scales, expected, rtol=1e-6, atol=0)
    assert torch.equal(values[2].float(), torch.zeros(123))
    # Triton's interpreter loses the carry where rounding reaches the next power of two, so only
    # values that keep their exponent are compared; torch's conversion is the reference.
    scaled = x / scales[:, None]
    nearest = scaled.to(torch.float8_e4m3fn).float()
    same_exponent = torch.frexp(nearest)[1] == torch.frexp(scaled)[1]
    assert same_exponent.float().mean() > 0.9
    normal = same_exponent & (scaled.abs() >= 2**-6)
    error = (values.float() - scaled).abs()[normal]
    assert (error <= 2**-4 * scaled.abs()[normal] * 1.0001).all()
