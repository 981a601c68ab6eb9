"""e4m3 weights: by wide rows in one launch, and by rows that are quantised first."""

from __future__ import annotations

import re

import pytest
import torch

from chipmark_kernels.fp8_gemm import fp8_gemm, quantize_rows_fp8
from chipmark_kernels.reference.gemm import (
    fp8_gemm_reference,
    fp8a16_gemm_reference,
    quantize_rows_fp8_reference,
)
from chipmark_kernels.skinny_gemm import fp8a16_gemm
from chipmark_kernels.tiles import Tile

SLOW = pytest.mark.slow
FLOATS = [torch.float32, torch.float16]
SHAPES = [
    (1, 33, 123),
    (3, 40, 200),
    (17, 16, 64),
    (1, 1, 1),
    (2, 1, 1),
    (64, 33, 123),
    pytest.param(1, 64, 512, marks=SLOW),
    pytest.param(65, 16, 64, marks=SLOW),
]


def _tile(rows: int, split: int) -> Tile:
    return Tile(m=1 if rows == 1 else 16, n=16, k=32, split=split)


@pytest.mark.parametrize(("rows", "n", "k"), [(1, 16, 64), (17, 40, 100)])
def test_fp8_gemm_agrees_with_fp64(rows, n, k, rng, assert_accurate) -> None:
    x, xs = quantize_rows_fp8_reference(torch.randn(rows, k, generator=rng))
    w, ws = quantize_rows_fp8_reference(torch.randn(n, k, generator=rng))
    got = fp8_gemm(x, xs, w, ws, torch.float32, tile=Tile(m=16, n=16, k=32))
    assert_accurate(got, fp8_gemm_reference(x, xs, w, ws, torch.float64))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("rows", "n", "k"), SHAPES)
@pytest.mark.parametrize("split", [1, 3])
def test_e4m3_weights_with_wide_activations_agree_with_fp64(
    dtype, rows, n, k, split, rng, assert_accurate
) -> None:
    x = torch.randn(rows, k, generator=rng).to(dtype)
    w, ws = quantize_rows_fp8_reference(torch.randn(n, k, generator=rng))
    bias = torch.randn(n, generator=rng).to(dtype)
    got = fp8a16_gemm(x, w, ws, bias, tile=_tile(rows, split))
    oracle = fp8a16_gemm_reference(x.double(), w, ws, bias.double())
    assert_accurate(got, oracle, fp8a16_gemm_reference(x, w, ws, bias))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("rows", "n", "k"),
    [(1, 33, 123), (3, 40, 200), (17, 33, 123), pytest.param(64, 33, 576, marks=SLOW)],
)
@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize("swiglu", [False, True])
def test_e4m3_weights_are_normed_before_and_ended_behind_as_plain_ones(
    dtype, rows, n, k, split, swiglu, rng, assert_accurate
) -> None:
    width = 2 * n if swiglu else n
    x = (3 * torch.randn(rows, k, generator=rng) + 1).to(dtype)
    # Rows of unequal size, so that a scale of another row would show.
    w = torch.randn(width, k, generator=rng) * torch.rand(width, 1, generator=rng) / k**0.5
    w, ws = quantize_rows_fp8_reference(w)
    norm = (1 + torch.randn(k, generator=rng) / 4).to(dtype)
    residual = torch.randn(rows, n, generator=rng).to(dtype)

    def options(cast) -> dict:
        return {
            "bias": cast(torch.linspace(-1, 1, width).to(dtype)),
            "norm_weight": cast(norm),
            "residual": cast(residual),
            "eps": 1e-5,
            "swiglu": swiglu,
        }

    got = fp8a16_gemm(x, w, ws, tile=_tile(rows, split), **options(torch.clone))
    oracle = fp8a16_gemm_reference(x.double(), w, ws, **options(torch.Tensor.double))
    assert_accurate(got, oracle, fp8a16_gemm_reference(x, w, ws, **options(torch.clone)))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rows", [1, 2])
def test_every_e4m3_code_is_widened_exactly(dtype, rows) -> None:
    # Subnormals from 2**-9, both zeros and both ends; NaN is no weight.
    codes = torch.tensor([c for c in range(256) if c & 0x7F != 0x7F], dtype=torch.uint8)
    w = codes.view(torch.float8_e4m3fn)[:, None]
    values = w.float().T
    assert (values.min(), values.max()) == (-448, 448)
    assert values[values > 0].min() == 2**-9
    x = torch.ones(rows, 1, dtype=dtype)
    got = fp8a16_gemm(x, w, torch.ones(len(codes)), tile=_tile(rows, 1))
    assert torch.equal(got.float(), values.expand(rows, -1))


@pytest.mark.parametrize("split", [1, 2])
def test_one_bf16_row_by_e4m3_weights_needs_no_matrix_unit(split, rng, assert_accurate) -> None:
    x = torch.randn(1, 100, generator=rng).bfloat16()
    w, ws = quantize_rows_fp8_reference(torch.randn(20, 100, generator=rng))
    norm = torch.randn(100, generator=rng).bfloat16()
    got = fp8a16_gemm(x, w, ws, norm_weight=norm, tile=_tile(1, split))
    oracle = fp8a16_gemm_reference(x.double(), w, ws, norm_weight=norm.double())
    assert_accurate(got, oracle, fp8a16_gemm_reference(x, w, ws, norm_weight=norm))


@pytest.mark.parametrize(
    ("weight", "scales", "message"),
    [
        (torch.ones(4, 8), torch.ones(4), "weight: must be torch.float8_e4m3fn, not torch.float32"),
        (
            torch.ones(4, 8).to(torch.float8_e4m3fn),
            torch.ones(1),
            "w_scales: must be (4,), not (1,)",
        ),
    ],
)
def test_e4m3_weights_of_another_type_or_without_their_scales_are_refused(
    weight, scales, message
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        fp8a16_gemm(torch.ones(2, 8), weight, scales)


@pytest.mark.parametrize("swiglu", [False, True])
def test_fp8_gemm_ends_as_the_others_do(swiglu, rng, assert_accurate) -> None:
    x, xs = quantize_rows_fp8_reference(torch.randn(5, 64, generator=rng))
    w, ws = quantize_rows_fp8_reference(torch.randn(2 * 20, 64, generator=rng) / 8)
    bias = torch.randn(2 * 20, generator=rng)
    residual = torch.randn(5, 20 if swiglu else 40, generator=rng)
    options = {"bias": bias, "swiglu": swiglu, "residual": residual}
    got = fp8_gemm(x, xs, w, ws, torch.float32, **options, tile=Tile(m=16, n=16, k=32))
    assert_accurate(got, fp8_gemm_reference(x, xs, w, ws, torch.float64, **options))


def test_fp8_takes_no_splits() -> None:
    x = torch.zeros(1, 32).to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match="takes no tile with 2 splits"):
        fp8_gemm(x, torch.ones(1), x, torch.ones(1), tile=Tile(m=16, n=16, k=32, split=2))


def test_fp8_quantises_the_normed_row(rng) -> None:
    x, norm = torch.randn(4, 123, generator=rng), torch.randn(123, generator=rng)
    values, scales = quantize_rows_fp8(x, norm, 1e-5)
    expected, expected_scales = quantize_rows_fp8_reference(x, norm, 1e-5)
    torch.testing.assert_close(scales, expected_scales, rtol=1e-5, atol=0)
    same = (values.float() == expected.float()).float().mean()
    assert same > 0.9  # the rest lost the carry of a rounding in the interpreter


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
