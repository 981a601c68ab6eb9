"""Attention over paged KV and what writes it, beside torch's SDPA on contiguous KV."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as functional

from chipmark_kernels.decode_attention import decode_attention
from chipmark_kernels.manifest import PAGE_TOKENS, ModelShape
from chipmark_kernels.prefill_attention import prefill_attention
from chipmark_kernels.reference.attention import (
    decode_attention_reference,
    prefill_attention_reference,
)
from chipmark_kernels.reference.rope_kv import qknorm_rope_kvwrite_reference
from chipmark_kernels.rope_kv import qknorm_rope_kvwrite
from gpu_arms.cases import Case, Inputs, random


def _pages(rng: Any, device: Any, dtype: Any, s: ModelShape, seqs: int, length: int) -> Inputs:
    """Caches in random page order behind a NaN page, and the page table."""
    width = -(-length // PAGE_TOKENS)
    shape = (seqs * width + 1, PAGE_TOKENS, s.n_kv_heads, s.head_dim)
    k, v = (random(rng, device, dtype, *shape) for _ in range(2))
    k[-1], v[-1] = float("nan"), float("nan")
    order = torch.randperm(seqs * width, generator=rng, device=rng.device)
    return k, v, order.view(seqs, width).to(device, torch.int32)


def _contiguous(cache: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """(seqs, heads, tokens, dim), laid out before the clock starts (`prepare_sdpa`)."""
    pages = cache[table.long()].flatten(1, 2)
    return pages.transpose(1, 2).contiguous()


def _decode(s: ModelShape, seqs: int, length: int) -> Iterator[Case]:
    def make(rng: Any, device: Any, dtype: Any) -> Inputs:
        q = random(rng, device, dtype, seqs, s.n_heads, s.head_dim)
        lens = torch.full((seqs,), length, dtype=torch.int32, device=device)
        return q, *_pages(rng, device, dtype, s, seqs, length), lens, s.head_dim**-0.5

    n_bytes = 2 * 2 * seqs * length * s.n_kv_heads * s.head_dim
    yield Case(
        "decode_attention", f"{s.name} seqs={seqs} context={length}", make, decode_attention,
        decode_attention_reference, n_bytes, 4 * seqs * length * s.n_heads * s.head_dim,
        "memory" if n_bytes >= 2**26 else "latency", {"torch": sdpa_decode},
    )  # fmt: skip


def sdpa_decode(q: Any, k: Any, v: Any, table: Any, lens: Any, scale: float) -> torch.Tensor:
    """SDPA of one token a sequence; with caches already contiguous (4-D, heads second)."""
    return functional.scaled_dot_product_attention(
        q[:, :, None], k, v, scale=scale, enable_gqa=True
    )


def sdpa_prefill(
    q: Any, k: Any, v: Any, table: Any, cu_q: Any, lens: Any, scale: float
) -> torch.Tensor:
    """SDPA of a whole prompt, or of the tokens behind a cached prefix (causal, lower right)."""
    from torch.nn.attention.bias import causal_lower_right

    heads = q.transpose(0, 1)[None]
    if heads.shape[2] == k.shape[2]:
        return functional.scaled_dot_product_attention(
            heads, k, v, is_causal=True, scale=scale, enable_gqa=True
        )
    mask: Any = causal_lower_right(heads.shape[2], k.shape[2])
    return functional.scaled_dot_product_attention(
        heads, k, v, attn_mask=mask, scale=scale, enable_gqa=True
    )


def prepare_sdpa(inputs: Inputs) -> Inputs:
    """Inputs of a peer: the paged caches as contiguous ones, what torch's own cache would hold."""
    q, k, v, table, *rest = inputs
    return q, _contiguous(k, table), _contiguous(v, table), table, *rest


def _prefill(s: ModelShape, new: int, length: int) -> Iterator[Case]:
    def make(rng: Any, device: Any, dtype: Any) -> Inputs:
        q = random(rng, device, dtype, new, s.n_heads, s.head_dim)
        cu_q = torch.tensor([0, new], dtype=torch.int32, device=device)
        lens = torch.tensor([length], dtype=torch.int32, device=device)
        return q, *_pages(rng, device, dtype, s, 1, length), cu_q, lens, s.head_dim**-0.5

    pairs = new * (length - new) + new * (new + 1) // 2
    n_bytes = 4 * length * s.n_kv_heads * s.head_dim + 4 * new * s.n_heads * s.head_dim
    yield Case(
        "prefill_attention", f"{s.name} new={new} context={length}", make, prefill_attention,
        prefill_attention_reference, n_bytes, 4 * pairs * s.n_heads * s.head_dim, "matrix",
        {"torch": sdpa_prefill},
    )  # fmt: skip


def _rope(s: ModelShape, rows: int) -> Iterator[Case]:
    width = (s.n_heads + 2 * s.n_kv_heads) * s.head_dim

    def make(rng: Any, device: Any, dtype: Any) -> Inputs:
        qkv = random(rng, device, dtype, rows, width)
        angles = torch.rand(512, s.head_dim // 2, generator=rng, device=rng.device).to(device)
        norm = random(rng, device, dtype, s.head_dim) if s.qk_norm else None
        index = torch.arange(rows, device=device, dtype=torch.int32)
        shape = (-(-rows // PAGE_TOKENS) + 1, PAGE_TOKENS, s.n_kv_heads, s.head_dim)
        caches = (torch.zeros(shape, device=device, dtype=dtype) for _ in range(2))
        return qkv, angles.cos(), angles.sin(), index, index, *caches, norm

    def fused(function: Any) -> Any:
        def call(*inputs: Any) -> Any:
            *rest, norm = inputs
            q = function(*rest, s.n_heads, q_norm=norm, k_norm=norm)
            return q, rest[-2], rest[-1]

        return call

    yield Case(
        "qknorm_rope_kvwrite", f"{s.name} rows={rows}", make, fused(qknorm_rope_kvwrite),
        fused(qknorm_rope_kvwrite_reference), 4 * rows * width, 0, "latency",
    )  # fmt: skip


def attention_cases(s: ModelShape, *, small: bool) -> Iterator[Case]:
    """Decode at 1, 8 and 64 sessions, a cold prompt and an append, and the rotation."""
    for seqs, length in ((1, 17), (3, 40)) if small else ((1, 32_768), (8, 16_384), (64, 4_096)):
        yield from _decode(s, seqs, length)
    for new, length in ((9, 9), (5, 40)) if small else ((8_192, 8_192), (512, 16_384)):
        yield from _prefill(s, new, length)
    for rows in (1, 3) if small else (1, 8, 64):
        yield from _rope(s, rows)
