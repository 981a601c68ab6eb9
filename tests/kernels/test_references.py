"""The references themselves, against torch's own operators."""

from __future__ import annotations

import torch
import torch.nn.functional as functional

from chipmark_kernels.reference.attention import (
    decode_attention_reference,
    prefill_attention_reference,
)
from chipmark_kernels.reference.gemm import (
    fp8_gemm_reference,
    quantize_rows_fp8_reference,
    skinny_gemm_reference,
)
from chipmark_kernels.reference.rmsnorm import rmsnorm_reference
from chipmark_kernels.reference.rope_kv import qknorm_rope_kvwrite_reference


def test_rmsnorm_is_torchs(rng) -> None:
    x, weight = torch.randn(3, 40, generator=rng), torch.randn(40, generator=rng)
    got, _ = rmsnorm_reference(x, weight, 1e-5)
    torch.testing.assert_close(got, functional.rms_norm(x, (40,), weight, 1e-5))


def test_swiglu_gemm_is_two_linear_layers(rng) -> None:
    x, w = torch.randn(3, 20, generator=rng), torch.randn(12, 20, generator=rng)
    b = torch.randn(12, generator=rng)
    gate, up = functional.linear(x, w, b).chunk(2, -1)
    got = skinny_gemm_reference(x, w, b, swiglu=True)
    torch.testing.assert_close(got, functional.silu(gate) * up)


def _paged(k: torch.Tensor, pages: list[int], page: int) -> torch.Tensor:
    cache = torch.full((max(pages) + 1, page, *k.shape[1:]), float("nan"))
    for i, at in enumerate(pages):
        part = k[i * page : (i + 1) * page]
        cache[at, : len(part)] = part
    return cache


def test_paged_attention_is_torchs_on_the_gathered_sequence(rng) -> None:
    k, v = torch.randn(10, 2, 8, generator=rng), torch.randn(10, 2, 8, generator=rng)
    q = torch.randn(3, 4, 8, generator=rng)
    pages = [2, 0, 3]
    caches = (_paged(k, pages, 4), _paged(v, pages, 4))
    table = torch.tensor([pages], dtype=torch.int32)
    lens = torch.tensor([10], dtype=torch.int32)
    mask = torch.ones(3, 10).tril(7).bool()
    heads = [t.transpose(0, 1)[None] for t in (q, k, v)]
    expected = functional.scaled_dot_product_attention(
        *heads, attn_mask=mask, scale=0.3, enable_gqa=True
    )[0].transpose(0, 1)
    cu_q = torch.tensor([0, 3], dtype=torch.int32)
    got = prefill_attention_reference(q, *caches, table, cu_q, lens, 0.3)
    torch.testing.assert_close(got, expected)
    last = decode_attention_reference(q[2:], *caches, table, lens, 0.3)
    torch.testing.assert_close(last, expected[2:])


def test_rope_is_a_rotation_of_each_pair(rng) -> None:
    qkv = torch.randn(1, 3 * 8, generator=rng)
    angle = torch.rand(5, 4, generator=rng)
    cache = [torch.zeros(1, 4, 1, 8) for _ in range(2)]
    index = torch.tensor([3], dtype=torch.int32)
    for interleaved in (False, True):
        q = qknorm_rope_kvwrite_reference(
            qkv, angle.cos(), angle.sin(), index, index, *cache, 1, interleaved=interleaved
        )
        order = torch.arange(8).view(4, 2).T if interleaved else torch.arange(8).view(2, 4)
        pairs = torch.complex(qkv[0, order[0]], qkv[0, order[1]])
        turned = pairs * torch.polar(torch.ones(4), angle[3])
        torch.testing.assert_close(q[0, 0, order[0]], turned.real)
        torch.testing.assert_close(q[0, 0, order[1]], turned.imag)
        torch.testing.assert_close(cache[1][0, 3, 0], qkv[0, 16:])


def test_fp8_loses_no_more_than_its_mantissa(rng) -> None:
    x, w = torch.randn(4, 64, generator=rng), torch.randn(8, 64, generator=rng)
    quantised = (*quantize_rows_fp8_reference(x), *quantize_rows_fp8_reference(w))
    got = fp8_gemm_reference(*quantised, torch.float32)
    scale = x.abs() @ w.abs().T
    assert ((got - x @ w.T).abs() <= 2 * 2**-4 * scale * 1.1).all()
