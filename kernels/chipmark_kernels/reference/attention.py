"""Paged attention in plain torch, for prefill and for decode."""

from __future__ import annotations

import torch

from chipmark_kernels.dtypes import wide_dtype


def _sequence_kv(
    cache: torch.Tensor, page_table: torch.Tensor, length: int, wide: torch.dtype
) -> torch.Tensor:
    """The first `length` rows of one sequence, (length, n_kv_heads, head_dim)."""
    page = cache.shape[1]
    n = torch.arange(length, device=cache.device)
    return cache[page_table.long()[n // page], n % page].to(wide)


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, first_position: int, scale: float
) -> torch.Tensor:
    """q (tokens, heads, dim) at first_position and on, over k, v (length, kv_heads, dim)."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    position = first_position + torch.arange(q.shape[0], device=q.device)
    hidden = torch.arange(k.shape[0], device=q.device)[None, :] > position[:, None]
    scores = scores.masked_fill(hidden[None], float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)


def prefill_attention_reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    cu_q: torch.Tensor,
    kv_lens: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """As `chipmark_kernels.prefill_attention.prefill_attention`, a sequence at a time."""
    wide = wide_dtype(q)
    out = torch.empty_like(q)
    starts, lengths = cu_q.tolist(), kv_lens.tolist()
    for seq, length in enumerate(lengths):
        a, b = starts[seq], starts[seq + 1]
        if a == b:
            continue
        k = _sequence_kv(k_cache, page_table[seq], length, wide)
        v = _sequence_kv(v_cache, page_table[seq], length, wide)
        out[a:b] = _attend(q[a:b].to(wide), k, v, length - (b - a), scale).to(q.dtype)
    return out


def decode_attention_reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    kv_lens: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """As `chipmark_kernels.decode_attention.decode_attention`; zero where a length is 0."""
    wide = wide_dtype(q)
    out = torch.zeros_like(q)
    for seq, length in enumerate(kv_lens.tolist()):
        if length:
            k = _sequence_kv(k_cache, page_table[seq], length, wide)
            v = _sequence_kv(v_cache, page_table[seq], length, wide)
            one = q[seq : seq + 1].to(wide)
            out[seq] = _attend(one, k, v, length - 1, scale)[0].to(q.dtype)
    return out
