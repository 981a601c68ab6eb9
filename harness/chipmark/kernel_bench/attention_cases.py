"""Attention over paged KV and what writes it, with torch's SDPA on contiguous KV."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as functional

from chipmark.kernel_bench.case import Call, Case, Inputs, PreparedPeer, random
from chipmark_kernels.decode_attention import decode_attention
from chipmark_kernels.formats import PAGE_TOKENS
from chipmark_kernels.manifest import ModelShape
from chipmark_kernels.prefill_attention import prefill_attention
from chipmark_kernels.reference.attention import (
    decode_attention_reference,
    prefill_attention_reference,
)
from chipmark_kernels.reference.rope_decode_attention import rope_decode_attention_reference
from chipmark_kernels.reference.rope_kv import qknorm_rope_kvwrite_reference
from chipmark_kernels.rope_decode_attention import rope_decode_attention
from chipmark_kernels.rope_kv import qknorm_rope_kvwrite


def _pages(rng: Any, device: Any, dtype: Any, s: ModelShape, seqs: int, length: int) -> Inputs:
    """Caches in random page order, NaN wherever no token was written, and the page table."""
    width = -(-length // PAGE_TOKENS)
    shape = (seqs * width + 1, PAGE_TOKENS, s.n_kv_heads, s.head_dim)
    k, v = (random(rng, device, dtype, *shape) for _ in range(2))
    order = torch.randperm(seqs * width, generator=rng, device=rng.device)
    table = order.view(seqs, width)
    for cache in (k, v):
        cache[-1] = float("nan")
        if written := length % PAGE_TOKENS:
            cache[table[:, -1].to(device), written:] = float("nan")
    return k, v, table.to(device, torch.int32)


def _contiguous(cache: torch.Tensor, table: torch.Tensor, length: int) -> torch.Tensor:
    """(seqs, heads, tokens, dim), laid out before the clock starts (`prepare_sdpa`)."""
    pages = cache[table.long()].flatten(1, 2)[:, :length]
    return pages.transpose(1, 2).contiguous()


def in_blocks(reference: Call, rows: int = 1024) -> Call:
    """A reference of one sequence's prefill, so many queries at a time: all scores of 8,192 tokens
    and 32 heads in float64 are 17 GB, several times over."""

    def call(q: Any, k: Any, v: Any, table: Any, cu_q: Any, lens: Any, scale: float) -> Any:
        out = torch.empty_like(q)
        for start in range(0, q.shape[0], rows):
            part = q[start : start + rows]
            ends = torch.tensor([0, part.shape[0]], dtype=torch.int32, device=q.device)
            seen = lens - (q.shape[0] - start - part.shape[0])
            out[start : start + rows] = reference(part, k, v, table, ends, seen, scale)
        return out

    return call


def _decode(s: ModelShape, seqs: int, length: int) -> Iterator[Case]:
    def make(rng: Any, device: Any, dtype: Any) -> Inputs:
        q = random(rng, device, dtype, seqs, s.n_heads, s.head_dim)
        lens = torch.full((seqs,), length, dtype=torch.int32, device=device)
        return q, *_pages(rng, device, dtype, s, seqs, length), lens, s.head_dim**-0.5

    n_bytes = 2 * 2 * seqs * length * s.n_kv_heads * s.head_dim
    yield Case(
        "decode_attention", f"{s.name} seqs={seqs} context={length}", make, decode_attention,
        decode_attention_reference, n_bytes, 4 * seqs * length * s.n_heads * s.head_dim,
        "memory" if n_bytes >= 2**26 else "latency",
        {"torch": PreparedPeer(prepare_sdpa, sdpa_decode)},
        tiled=lambda tile: partial(decode_attention, tile=tile),
        tile_shape={
            "seqs": seqs, "kv_heads": s.n_kv_heads, "group": s.n_heads // s.n_kv_heads,
            "head_dim": s.head_dim, "context": -(-length // PAGE_TOKENS) * PAGE_TOKENS,
        },
    )  # fmt: skip


def sdpa_decode(q: Any, k: Any, v: Any, table: Any, lens: Any, scale: float) -> torch.Tensor:
    """SDPA of one token a sequence; with caches already contiguous (4-D, heads second)."""
    return functional.scaled_dot_product_attention(
        q[:, :, None], k, v, scale=scale, enable_gqa=True
    )[:, :, 0]


def sdpa_prefill(
    q: Any, k: Any, v: Any, table: Any, cu_q: Any, lens: Any, scale: float
) -> torch.Tensor:
    """SDPA of a whole prompt, or of the tokens behind a cached prefix (causal, lower right)."""
    from torch.nn.attention.bias import causal_lower_right

    heads = q.transpose(0, 1)[None]
    whole = heads.shape[2] == k.shape[2]
    mask: Any = None if whole else causal_lower_right(heads.shape[2], k.shape[2])
    out = functional.scaled_dot_product_attention(
        heads, k, v, attn_mask=mask, is_causal=whole, scale=scale, enable_gqa=True
    )
    return out[0].transpose(0, 1)


def prepare_sdpa(inputs: Inputs) -> Inputs:
    """Inputs of a peer: the paged caches as contiguous ones, what torch's own cache would hold."""
    q, k, v, table, *rest = inputs
    length = int(rest[-2][0])
    return q, _contiguous(k, table, length), _contiguous(v, table, length), table, *rest


def _joined(s: ModelShape, seqs: int, length: int) -> Iterator[Case]:
    """Rotation, cache write and attention of a new token behind `length - 1` cached ones."""

    def make(rng: Any, device: Any, dtype: Any) -> Inputs:
        qkv = random(rng, device, dtype, seqs, (s.n_heads + 2 * s.n_kv_heads) * s.head_dim)
        k, v, table = _pages(rng, device, dtype, s, seqs, length)
        pages = table[:, (length - 1) // PAGE_TOKENS].long()
        slots = pages * PAGE_TOKENS + (length - 1) % PAGE_TOKENS
        for cache in (k, v):  # caches are among the results, and NaN is compared with nothing
            cache.nan_to_num_(0.5).flatten(0, 1)[slots] = 0.5
        angles = torch.rand(length, s.head_dim // 2, generator=rng, device=rng.device).to(device)
        norms = [random(rng, device, dtype, s.head_dim) if s.qk_norm else None for _ in range(2)]
        lens = torch.full((seqs,), length, dtype=torch.int32, device=device)
        rotation = qkv, angles.cos(), angles.sin(), lens - 1, slots
        return *rotation, k, v, table, lens, *norms

    def joined(function: Call) -> Call:
        def call(*inputs: Any) -> Any:
            *rest, q_norm, k_norm = inputs
            out = function(*rest, s.n_heads, s.head_dim**-0.5, q_norm=q_norm, k_norm=k_norm)
            return out, rest[5], rest[6]

        return call

    n_bytes = 2 * 2 * seqs * length * s.n_kv_heads * s.head_dim
    yield Case(
        "rope_decode_attention", f"{s.name} seqs={seqs} context={length}", make,
        joined(rope_decode_attention), joined(rope_decode_attention_reference), n_bytes,
        4 * seqs * length * s.n_heads * s.head_dim, "memory" if n_bytes >= 2**26 else "latency",
    )  # fmt: skip


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
        in_blocks(prefill_attention_reference), n_bytes, 4 * pairs * s.n_heads * s.head_dim,
        "matrix", {"torch": PreparedPeer(prepare_sdpa, sdpa_prefill)},
    )  # fmt: skip


def _rope(s: ModelShape, rows: int) -> Iterator[Case]:
    width = (s.n_heads + 2 * s.n_kv_heads) * s.head_dim

    def make(rng: Any, device: Any, dtype: Any) -> Inputs:
        qkv = random(rng, device, dtype, rows, width)
        angles = torch.rand(512, s.head_dim // 2, generator=rng, device=rng.device).to(device)
        norms = [random(rng, device, dtype, s.head_dim) if s.qk_norm else None for _ in range(2)]
        positions = torch.randint(512, (rows,), generator=rng, device=rng.device)
        n_pages = -(-rows // PAGE_TOKENS) + 1
        slots = torch.randperm(n_pages * PAGE_TOKENS, generator=rng, device=rng.device)[:rows]
        if rows > 1:
            slots[-1] = -1  # a padded row of a graph, which writes nothing
        shape = (n_pages, PAGE_TOKENS, s.n_kv_heads, s.head_dim)
        caches = (random(rng, device, dtype, *shape) for _ in range(2))
        where = positions.to(device, torch.int32), slots.to(device)
        return qkv, angles.cos(), angles.sin(), *where, *caches, *norms

    def fused(function: Call) -> Call:
        def call(*inputs: Any) -> Any:
            *rest, q_norm, k_norm = inputs
            q = function(*rest, s.n_heads, q_norm=q_norm, k_norm=k_norm)
            return q, rest[-2], rest[-1]

        return call

    yield Case(
        "qknorm_rope_kvwrite", f"{s.name} rows={rows}", make, fused(qknorm_rope_kvwrite),
        fused(qknorm_rope_kvwrite_reference), 4 * rows * width, 0, "latency",
        {name: PreparedPeer(prepare_rope, torch_rope) for name in ("torch", "torch.compile")},
    )  # fmt: skip


def split_heads(
    qkv: torch.Tensor, k_cache: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Views of queries, keys and values, (tokens, heads, head_dim) each."""
    n_kv, dim = k_cache.shape[2:]
    heads = qkv.view(qkv.shape[0], -1, dim)
    sizes = [heads.shape[1] - 2 * n_kv, n_kv, n_kv]
    q, k, v = torch.split(heads, sizes, dim=1)
    return q, k, v


def prepare_rope(inputs: Inputs) -> Inputs:
    """Caches with a page behind the last, where a row of slot -1 may write: torch has no store that
    leaves a row out without asking the host."""
    *head, slots, k, v, q_norm, k_norm = inputs
    spare = k.shape[0] * k.shape[1]
    k, v = (torch.cat((cache, torch.zeros_like(cache[:1]))) for cache in (k, v))
    return *head, torch.where(slots < 0, spare, slots), k, v, q_norm, k_norm


def torch_rope(
    qkv: Any, cos: Any, sin: Any, positions: Any, slots: Any, k_cache: Any, v_cache: Any,
    q_norm: Any, k_norm: Any,
) -> Any:  # fmt: skip
    """Norm, rotation and write by torch's operators."""
    q, k, v = split_heads(qkv, k_cache)
    if q_norm is not None:
        q = functional.rms_norm(q, q_norm.shape, q_norm, 1e-6)
        k = functional.rms_norm(k, k_norm.shape, k_norm, 1e-6)
    c, s = cos[positions][:, None], sin[positions][:, None]

    def rotated(x: torch.Tensor) -> torch.Tensor:
        a, b = x.float().chunk(2, -1)
        return torch.cat((a * c - b * s, b * c + a * s), -1).to(x.dtype)

    for cache, written in ((k_cache, rotated(k)), (v_cache, v)):
        cache.flatten(0, 1).index_copy_(0, slots, written)
    return rotated(q), k_cache[:-1], v_cache[:-1]


def attention_cases(s: ModelShape, *, small: bool) -> Iterator[Case]:
    """Decode at 1, 8 and 64 sessions, a cold prompt and an append, and the rotation."""
    large = ((1, 1_024), (1, 32_768), (8, 16_384), (64, 4_096))
    for seqs, length in ((1, 17), (3, 40)) if small else large:
        yield from _decode(s, seqs, length)
        yield from _joined(s, seqs, length)
    for new, length in ((9, 9), (5, 40)) if small else ((8_192, 8_192), (512, 16_384)):
        yield from _prefill(s, new, length)
    for rows in (1, 3) if small else (1, 8, 64):
        yield from _rope(s, rows)
