from __future__ import annotations

import re

import pytest
import torch

from chipmark_kernels.dense_gemm_hopper import dense_gemm_hopper
from chipmark_kernels.device import TARGETS
from chipmark_kernels.launch import recording
from chipmark_kernels.reference.gemm import (
    dequantize_int4,
    dequantize_int8,
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
    (1, 1, 1),
    (2, 1, 1),
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


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("rows", "n", "k"), [(1, 33, 123), (3, 40, 200), pytest.param(17, 33, 576, marks=SLOW)]
)
@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize("swiglu", [False, True])
def test_norm_before_and_residual_after_agree_with_fp64(
    dtype, rows, n, k, split, swiglu, rng, assert_accurate
) -> None:
    width = 2 * n if swiglu else n
    x = (3 * torch.randn(rows, k, generator=rng) + 1).to(dtype)
    w = (torch.randn(width, k, generator=rng) / k**0.5).to(dtype)
    norm = (1 + torch.randn(k, generator=rng) / 4).to(dtype)
    bias = torch.randn(width, generator=rng).to(dtype)
    residual = torch.randn(rows, n, generator=rng).to(dtype)

    def options(cast) -> dict:
        tensors = {"norm_weight": cast(norm), "residual": cast(residual)}
        return {"eps": 1e-5, "swiglu": swiglu, **tensors}

    got = skinny_gemm(x, w, bias, tile=_tile(rows, split), **options(torch.clone))
    oracle = skinny_gemm_reference(
        x.double(), w.double(), bias.double(), **options(torch.Tensor.double)
    )
    assert_accurate(got, oracle, skinny_gemm_reference(x, w, bias, **options(torch.clone)))


@pytest.mark.parametrize("split", [1, 2])
def test_the_residual_may_be_the_output(split, rng) -> None:
    x, w = torch.randn(3, 64, generator=rng), torch.randn(20, 64, generator=rng)
    stream = torch.randn(3, 20, generator=rng)
    expected = stream + x @ w.T
    got = skinny_gemm(x, w, residual=stream, out=stream, tile=_tile(3, split))
    assert got is stream
    torch.testing.assert_close(stream, expected, rtol=1e-5, atol=1e-5)


def test_a_row_of_zeros_is_normed_to_zeros(rng) -> None:
    w, norm = torch.randn(20, 64, generator=rng), torch.ones(64)
    for rows in (1, 2):
        got = skinny_gemm(torch.zeros(rows, 64), w, norm_weight=norm, tile=_tile(rows, 1))
        assert torch.equal(got, torch.zeros(rows, 20))


@pytest.mark.parametrize(
    ("name", "tensor", "shape"),
    [
        ("bias", torch.ones(3), "(4,)"),
        ("residual", torch.ones(1, 4), "(2, 4)"),
        ("norm_weight", torch.ones(4), "(8,)"),
        ("out", torch.ones(2, 3), "(2, 4)"),
    ],
)
def test_a_wrong_shape_is_refused_by_name(name, tensor, shape) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name}: must be {shape}, not ")):
        skinny_gemm(torch.ones(2, 8), torch.ones(4, 8), **{name: tensor})


def test_bf16_of_one_row_needs_no_matrix_unit(rng, assert_accurate) -> None:
    x = torch.randn(1, 100, generator=rng).bfloat16()
    w = torch.randn(20, 100, generator=rng).bfloat16()
    norm = torch.randn(100, generator=rng).bfloat16()
    got = skinny_gemm(x, w, norm_weight=norm, tile=_tile(1, 2))
    oracle = skinny_gemm_reference(x.double(), w.double(), norm_weight=norm.double())
    assert_accurate(got, oracle, skinny_gemm_reference(x, w, norm_weight=norm))


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
    residual = torch.randn(rows, 19 if swiglu else 38, generator=rng).to(dtype)
    norm = (1 + torch.randn(256, generator=rng) / 4).to(dtype)
    tile = _tile(rows, split, k)
    q8, s8 = quantize_int8(w, group)
    q4, s4 = quantize_int4(w, group)
    zeros = torch.randint(6, 10, s4.shape, generator=rng).to(dtype)
    # Zeros of another stride than the scales', as a slice of a wider tensor has.
    zeros = torch.cat((zeros, zeros), dim=1)[:, : zeros.shape[1]]
    for kernel, reference, weights in (
        (w8a16_gemm, w8a16_gemm_reference, (q8, s8)),
        (w4a16_gemm, w4a16_gemm_reference, (q4, s4, None)),
        (w4a16_gemm, w4a16_gemm_reference, (q4, s4, zeros)),
    ):
        for fused in ({}, {"norm_weight": norm, "residual": residual}):
            options = fused | {"bias": bias, "swiglu": swiglu}
            got = kernel(x, *weights, **options, tile=tile)
            wide = {k: v.double() if torch.is_tensor(v) else v for k, v in options.items()}
            oracle = reference(x.double(), *weights, **wide)
            assert_accurate(got, oracle, reference(x, *weights, **options))


@pytest.mark.parametrize("groups", [4, 5, 8])
def test_a_group_that_is_no_power_of_two_or_too_small_is_refused(groups) -> None:
    with pytest.raises(ValueError, match="a group is a power of two >= 32"):
        w8a16_gemm(torch.ones(1, 192), torch.ones(4, 192, dtype=torch.int8), torch.ones(4, groups))


@pytest.mark.parametrize("swiglu", [False, True])
def test_the_hopper_variant_agrees_with_fp64(swiglu, rng, assert_accurate) -> None:
    x = torch.randn(37, 104, generator=rng).half()
    w = (torch.randn(2 * 40, 104, generator=rng) / 10).half()
    bias = torch.randn(2 * 40, generator=rng).half()
    residual = torch.randn(37, 40 if swiglu else 80, generator=rng).half()
    options = {"bias": bias, "swiglu": swiglu, "residual": residual}
    got = dense_gemm_hopper(x, w, **options, tile=Tile(m=16, n=16, k=32))
    wide = options | {"bias": bias.double(), "residual": residual.double()}
    oracle = skinny_gemm_reference(x.double(), w.double(), **wide)
    assert_accurate(got, oracle, skinny_gemm_reference(x, w, **options))


def test_the_hopper_variant_is_refused_elsewhere() -> None:
    x = torch.empty(128, 64, device="meta", dtype=torch.float16)
    with recording(TARGETS["sm_80"]), pytest.raises(ValueError, match="sm_80 has no TMA"):
        dense_gemm_hopper(x, x)
