from __future__ import annotations

import pytest
import torch

from chipmark_kernels.embedding import embedding_rmsnorm
from chipmark_kernels.reference.embedding import embedding_rmsnorm_reference
from chipmark_kernels.reference.rmsnorm import rmsnorm_reference
from chipmark_kernels.reference.swiglu import swiglu_reference
from chipmark_kernels.rmsnorm import rmsnorm
from chipmark_kernels.swiglu import swiglu
from chipmark_kernels.tiles import Tile

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 123), (5, 64), (3, 1000), (17, 576)])
@pytest.mark.parametrize("cast_first", [True, False])
def test_rmsnorm_agrees_with_fp64(dtype, rows, cols, cast_first, rng, assert_accurate) -> None:
    x = torch.randn(rows, cols, generator=rng).to(dtype)
    weight = torch.randn(cols, generator=rng).to(dtype)
    got, total = rmsnorm(x, weight, 1e-6, cast_first=cast_first)
    oracle, _ = rmsnorm_reference(x.double(), weight.double(), 1e-6)
    baseline, _ = rmsnorm_reference(x, weight, 1e-6, cast_first=cast_first)
    assert_accurate(got, oracle, baseline)
    assert total is x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "cols"), [(1, 64), (6, 123)])
def test_rmsnorm_adds_the_residual_and_norms_the_rounded_sum(
    dtype, rows, cols, rng, assert_accurate
) -> None:
    x = torch.randn(rows, cols, generator=rng).to(dtype)
    residual = (3 * torch.randn(rows, cols, generator=rng)).to(dtype)
    weight = torch.ones(cols, dtype=dtype)
    got, total = rmsnorm(x, weight, 1e-5, residual)
    expected = (x.float() + residual.float()).to(dtype)
    # The interpreter cuts to bf16 instead of rounding: one unit in the last place there.
    cut = 2**-7 if dtype == torch.bfloat16 else 0.0
    torch.testing.assert_close(total, expected, rtol=cut, atol=0)
    oracle, _ = rmsnorm_reference(total.double(), weight.double(), 1e-5)
    assert_accurate(got, oracle)


def test_rmsnorm_writes_the_residual_in_place_and_reads_strided_rows(rng) -> None:
    wide = torch.randn(4, 100, generator=rng)
    x = wide[:, :60]
    residual = torch.randn(4, 60, generator=rng)
    weight = torch.randn(60, generator=rng)
    expected, total = rmsnorm_reference(x, weight, 1e-5, residual)
    out = torch.full((4, 60), float("nan"))
    got, again = rmsnorm(x, weight, 1e-5, residual, out=out, residual_out=residual)
    assert got is out
    assert again is residual
    torch.testing.assert_close(residual, total, rtol=0, atol=0)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_rows_beyond_the_grid_limit_are_done_by_a_loop(rng, monkeypatch) -> None:
    monkeypatch.setattr("chipmark_kernels.rmsnorm.MAX_GRID", 3)
    monkeypatch.setattr("chipmark_kernels.swiglu.MAX_GRID", 2)
    x = torch.randn(8, 16, generator=rng)
    weight = torch.ones(16)
    expected, _ = rmsnorm_reference(x, weight, 1e-5)
    torch.testing.assert_close(rmsnorm(x, weight, 1e-5)[0], expected)
    torch.testing.assert_close(swiglu(x), swiglu_reference(x))


def test_a_column_stride_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="x: the last dimension must be contiguous"):
        rmsnorm(torch.ones(4, 8).T, torch.ones(4), 1e-5)


def test_no_row_gives_no_row() -> None:
    got, _ = rmsnorm(torch.empty(0, 8), torch.ones(8), 1e-5)
    assert got.shape == (0, 8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 7])
def test_embedding_gathers_rows_and_norms_them(dtype, tokens, rng, assert_accurate) -> None:
    table = torch.randn(50, 72, generator=rng).to(dtype)
    weight = torch.randn(72, generator=rng).to(dtype)
    ids = torch.randint(0, 50, (tokens,), generator=rng, dtype=torch.int32)
    hidden, normed = embedding_rmsnorm(ids, table, weight, 1e-6)
    assert torch.equal(hidden, table[ids.long()])
    _, oracle = embedding_rmsnorm_reference(ids, table.double(), weight.double(), 1e-6)
    _, baseline = embedding_rmsnorm_reference(ids, table, weight, 1e-6)
    assert_accurate(normed, oracle, baseline)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (3, 123), (2, 176)])
def test_swiglu_agrees_with_fp64(dtype, rows, cols, rng, assert_accurate) -> None:
    packed = torch.randn(rows, 2 * cols, generator=rng).to(dtype)
    got = swiglu(packed, tile=Tile(n=64))
    assert_accurate(got, swiglu_reference(packed.double()), swiglu_reference(packed))
