"""Addresses past 2**31 elements: memory is reserved and only a few of its pages are touched."""

from __future__ import annotations

import pytest
import torch
from triton.runtime.interpreter import GridExecutor

from chipmark_kernels.decode_attention import decode_attention
from chipmark_kernels.embedding import embedding_rmsnorm
from chipmark_kernels.prefill_attention import prefill_attention
from chipmark_kernels.rope_kv import qknorm_rope_kvwrite
from chipmark_kernels.skinny_gemm import skinny_gemm
from chipmark_kernels.tiles import Tile

FAR = 2**31 + 4096


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """FAR + 4096 fp16 values, untouched. The interpreter copies whole storages back; here they
    are the caller's own, so there is nothing to copy and no page to touch."""
    monkeypatch.setattr(GridExecutor, "_restore_args_dev", lambda *_: None)
    return torch.empty(FAR + 4096, dtype=torch.float16)


def test_a_far_page_is_written_and_read(far, rng) -> None:
    shape, strides = (2, 4, 1, 16), (FAR, 16, 16, 1)
    k = far.as_strided(shape, strides, 0)
    v = far.as_strided(shape, strides, 1024)
    qkv = torch.randn(4, 3 * 16, generator=rng).half()
    cos, sin = torch.ones(8, 8), torch.zeros(8, 8)
    positions = torch.arange(4, dtype=torch.int32)
    slots = 4 + torch.arange(4, dtype=torch.int32)
    q = qknorm_rope_kvwrite(qkv, cos, sin, positions, slots, k, v, 1)
    assert torch.equal(k[1, :, 0], qkv[:, 16:32])
    assert torch.equal(v[1, :, 0], qkv[:, 32:])
    table = torch.tensor([[1]], dtype=torch.int32)
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


def test_a_far_embedding_row_is_gathered(far) -> None:
    table = far.as_strided((2, 32), (FAR, 1), 0)
    table[1] = torch.arange(32)
    ids = torch.tensor([1], dtype=torch.int32)
    hidden, _ = embedding_rmsnorm(ids, table, torch.ones(32, dtype=torch.float16), 1e-6)
    assert hidden[0].tolist() == list(range(32))


@pytest.mark.parametrize("rows", [1, 2])
def test_a_far_weight_row_is_multiplied(rows, far) -> None:
    weight = far.as_strided((2, 32), (FAR, 1), 0)
    weight[0], weight[1] = 1.0, 2.0
    tile = Tile(m=1 if rows == 1 else 16, n=16, k=32)
    got = skinny_gemm(torch.ones(rows, 32, dtype=torch.float16), weight, tile=tile)
    assert got.tolist() == [[32.0, 64.0]] * rows
