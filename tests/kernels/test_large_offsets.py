"""Addresses past 2**31 elements: memory is reserved and only a few of its pages are touched."""

from __future__ import annotations

import pytest
import torch
from triton.runtime.interpreter import GridExecutor

from chipmark_kernels.decode_attention import decode_attention
from chipmark_kernels.embedding import embedding_rmsnorm
from chipmark_kernels.fp8_gemm import quantize_rows_fp8
from chipmark_kernels.prefill_attention import prefill_attention
from chipmark_kernels.reference.attention import decode_attention_reference
from chipmark_kernels.reference.rmsnorm import rmsnorm_reference
from chipmark_kernels.reference.sampling import nucleus_cutoff_reference, sample_reference
from chipmark_kernels.reference.swiglu import swiglu_reference
from chipmark_kernels.rmsnorm import rmsnorm
from chipmark_kernels.rope_kv import qknorm_rope_kvwrite
from chipmark_kernels.sampling import sample
from chipmark_kernels.skinny_gemm import skinny_gemm
from chipmark_kernels.swiglu import swiglu
from chipmark_kernels.tiles import Tile
from chipmark_kernels.top_p import nucleus_cutoff
from chipmark_kernels.weight_only import w8a16_gemm

FAR = 2**31 + 4096
# A stride that fits an int32, as launchers pass it, while the third row lies past 2**31.
STEP = 2**30 + 1024


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """FAR + 4096 fp16 values, untouched. The interpreter copies whole storages back; here they
    are the caller's own, so there is nothing to copy and no page to touch."""
    monkeypatch.setattr(GridExecutor, "_restore_args_dev", lambda *_: None)
    return torch.empty(FAR + 8192, dtype=torch.float16)


@pytest.mark.parametrize(("page", "stride"), [(1, FAR), (2, STEP)])
def test_a_far_page_is_written_and_read(page, stride, far, rng) -> None:
    shape, strides = (page + 1, 4, 1, 16), (stride, 16, 16, 1)
    k = far.as_strided(shape, strides, 0)
    v = far.as_strided(shape, strides, 1024)
    qkv = torch.randn(4, 3 * 16, generator=rng).half()
    cos, sin = torch.ones(8, 8), torch.zeros(8, 8)
    positions = torch.arange(4, dtype=torch.int32)
    slots = 4 * page + torch.arange(4, dtype=torch.int32)
    q = qknorm_rope_kvwrite(qkv, cos, sin, positions, slots, k, v, 1)
    assert torch.equal(k[page, :, 0], qkv[:, 16:32])
    assert torch.equal(v[page, :, 0], qkv[:, 32:])
    table = torch.tensor([[page]], dtype=torch.int32)
    lens = torch.tensor([4], dtype=torch.int32)
    scores = (q[:, 0].float() @ qkv[:, 16:32].float().T) * 0.25
    scores = scores.masked_fill(torch.ones(4, 4).triu(1).bool(), float("-inf"))
    expected = scores.softmax(-1) @ qkv[:, 32:].float()
    cu_q = torch.tensor([0, 4], dtype=torch.int32)
    tile = Tile(m=16, n=16)
    prefill = prefill_attention(q, k, v, table, cu_q, lens, 0.25, tile=tile)
    torch.testing.assert_close(prefill[:, 0].float(), expected, rtol=5e-3, atol=5e-3)
    last = q[3:]
    decode = decode_attention(last, k, v, table, lens, 0.25, tile=tile)
    torch.testing.assert_close(decode[:, 0].float(), expected[3:], rtol=5e-3, atol=5e-3)


def test_a_far_head_is_written_and_read(far, rng) -> None:
    # A cache that keeps each head's pages together: the third head lies past 2**31.
    shape, strides = (1, 4, 3, 16), (64, 16, STEP, 1)
    k = far.as_strided(shape, strides, 0)
    v = far.as_strided(shape, strides, 2048)
    qkv = torch.randn(4, 9 * 16, generator=rng).half()
    cos, sin = torch.ones(8, 8), torch.zeros(8, 8)
    index = torch.arange(4, dtype=torch.int32)
    q = qknorm_rope_kvwrite(qkv, cos, sin, index, index, k, v, 3)
    assert torch.equal(k[0, :, 2], qkv[:, 5 * 16 : 6 * 16])
    assert torch.equal(v[0, :, 2], qkv[:, 8 * 16 :])
    table = torch.zeros(1, 1, dtype=torch.int32)
    lens = torch.tensor([4], dtype=torch.int32)
    got = decode_attention(q[3:], k, v, table, lens, 0.25, tile=Tile(m=16, n=16))
    near = (k.clone(), v.clone())
    expected = decode_attention_reference(q[3:], *near, table, lens, 0.25)
    torch.testing.assert_close(got, expected, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize(("row", "stride"), [(1, FAR), (2, STEP)])
def test_a_far_embedding_row_is_gathered(row, stride, far) -> None:
    table = far.as_strided((row + 1, 32), (stride, 1), 0)
    table[row] = torch.arange(32)
    ids = torch.tensor([row], dtype=torch.int32)
    hidden, _ = embedding_rmsnorm(ids, table, torch.ones(32, dtype=torch.float16), 1e-6)
    assert hidden[0].tolist() == list(range(32))


@pytest.fixture
def far_rows(far, rng) -> torch.Tensor:
    """(3, 32) fp16, its last row past 2**31."""
    rows = far.as_strided((3, 32), (STEP, 1), 0)
    rows.copy_(torch.randn(3, 32, generator=rng).half())
    return rows


@pytest.mark.parametrize("rows", [1, 2])
def test_a_far_weight_row_is_multiplied(rows, far_rows, rng) -> None:
    tile = Tile(m=1 if rows == 1 else 16, n=16, k=32)
    x = torch.randn(rows, 32, generator=rng).half()
    got = skinny_gemm(x, far_rows, tile=tile)
    torch.testing.assert_close(got.float(), x.float() @ far_rows.float().T, rtol=5e-3, atol=5e-3)


def test_a_far_row_of_activations_is_multiplied_and_written(far_rows, far, rng) -> None:
    w = torch.randn(16, 32, generator=rng).half()
    out = far.as_strided((3, 16), (STEP, 1), 4096)
    skinny_gemm(far_rows, w, residual=far_rows[:, :16], out=out, tile=Tile(m=16, n=16, k=32))
    expected = far_rows.float() @ w.float().T + far_rows[:, :16].float()
    torch.testing.assert_close(out.float(), expected, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("rows", [1, 2])
def test_far_quantised_rows_are_multiplied(rows, far, rng) -> None:
    codes = far.view(torch.int8).as_strided((3, 32), (STEP, 1), 0)
    codes.copy_(torch.randint(-127, 128, (3, 32), generator=rng).to(torch.int8))
    x = torch.randn(rows, 32, generator=rng).half()
    tile = Tile(m=1 if rows == 1 else 16, n=16)
    scales = torch.ones(3, 1)
    got = w8a16_gemm(x, codes, scales, tile=tile)
    expected = x.float() @ codes.float().T
    torch.testing.assert_close(got.float(), expected, rtol=5e-3, atol=0.5)


def test_far_rows_of_the_row_kernels(far_rows, far) -> None:
    near = far_rows.clone()
    weight = torch.ones(32, dtype=torch.float16)
    out = far.as_strided((3, 32), (STEP, 1), 4096)
    rmsnorm(far_rows, weight, 1e-5, out=out)
    torch.testing.assert_close(out.clone(), rmsnorm_reference(near, weight, 1e-5)[0])
    torch.testing.assert_close(swiglu(far_rows), swiglu_reference(near), rtol=2e-3, atol=2e-3)
    assert torch.equal(sample(far_rows, tile=Tile(n=16)), sample_reference(near))
    ones = torch.ones(3)
    got = nucleus_cutoff(far_rows, ones, ones / 2, tile=Tile(n=32))
    assert torch.equal(got, nucleus_cutoff_reference(near, ones, ones / 2))
    _, scales = quantize_rows_fp8(far_rows)
    torch.testing.assert_close(scales, near.float().abs().amax(-1) / 448.0)
