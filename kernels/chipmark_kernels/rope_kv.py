"""Query and key norm, rotary positions and the write into the paged cache, in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from chipmark_kernels.dependent_launch import gdc_launch_dependents, gdc_wait
from chipmark_kernels.dtypes import ceil_div, dtype_name, next_power_of_2, require_unit_stride
from chipmark_kernels.launch import MAX_GRID, device_facts, launch
from chipmark_kernels.tiles import Tile, choose


@triton.jit(do_not_specialize=["n_tokens"])
def _rope_kv_kernel(
    qkv_ptr,
    q_norm_ptr,
    k_norm_ptr,
    cos_ptr,
    sin_ptr,
    positions_ptr,
    slots_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    n_tokens,
    qkv_stride,
    table_stride,
    q_stride,
    k_stride_page,
    k_stride_token,
    k_stride_head,
    v_stride_page,
    v_stride_token,
    v_stride_head,
    eps,
    N_HEADS: tl.constexpr,
    N_KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    QK_NORM: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    PDL: tl.constexpr,
):
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    pair = tl.arange(0, BLOCK_HALF)
    real_pair = pair < HALF
    if INTERLEAVED:
        first = 2 * pair
        second = 2 * pair + 1
    else:
        first = pair
        second = pair + HALF
    is_q = head < N_HEADS
    is_k = (head >= N_HEADS) & (head < N_HEADS + N_KV_HEADS)
    is_v = (head >= N_HEADS + N_KV_HEADS) & (head < N_HEADS + 2 * N_KV_HEADS)
    inside = (is_q | is_k | is_v)[:, None] & real_pair[None, :]
    # A cache that holds its heads apart has a stride of heads that an int32 offset cannot count.
    k_head = tl.where(is_k, head - N_HEADS, 0).to(tl.int64)
    v_head = tl.where(is_v, head - N_HEADS - N_KV_HEADS, 0).to(tl.int64)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    for token in range(tl.program_id(0), n_tokens, tl.num_programs(0)):
        at = tl.cast(token, tl.int64)
        row = qkv_ptr + at * qkv_stride + head[:, None] * (2 * HALF)
        raw_a = tl.load(row + first[None, :], mask=inside, other=0.0)
        raw_b = tl.load(row + second[None, :], mask=inside, other=0.0)
        a = raw_a.to(tl.float32)
        b = raw_b.to(tl.float32)
        if QK_NORM:
            mean = (tl.sum(a * a, axis=1) + tl.sum(b * b, axis=1)) / (2 * HALF)
            rstd = tl.where(is_v, 1.0, tl.rsqrt(mean + eps))[:, None]
            qa = tl.load(q_norm_ptr + first, mask=real_pair, other=0.0).to(tl.float32)[None, :]
            qb = tl.load(q_norm_ptr + second, mask=real_pair, other=0.0).to(tl.float32)[None, :]
            ka = tl.load(k_norm_ptr + first, mask=real_pair, other=0.0).to(tl.float32)[None, :]
            kb = tl.load(k_norm_ptr + second, mask=real_pair, other=0.0).to(tl.float32)[None, :]
            # The normed head is rounded before the weight, as Qwen 3 does.
            a = (a * rstd).to(raw_a.dtype).to(tl.float32) * tl.where(is_q[:, None], qa, ka)
            b = (b * rstd).to(raw_b.dtype).to(tl.float32) * tl.where(is_q[:, None], qb, kb)
            a = a.to(raw_a.dtype).to(tl.float32)
            b = b.to(raw_b.dtype).to(tl.float32)
        # A padded row may hold any negative position.
        position = tl.maximum(tl.load(positions_ptr + at), 0).to(tl.int64)
        angle = position * table_stride + pair
        cos = tl.load(cos_ptr + angle, mask=real_pair, other=1.0).to(tl.float32)[None, :]
        sin = tl.load(sin_ptr + angle, mask=real_pair, other=0.0).to(tl.float32)[None, :]
        turned_a = (a * cos - b * sin).to(raw_a.dtype)
        turned_b = (b * cos + a * sin).to(raw_b.dtype)

        q_row = q_ptr + at * q_stride + head[:, None] * (2 * HALF)
        q_mask = is_q[:, None] & real_pair[None, :]
        tl.store(q_row + first[None, :], turned_a, mask=q_mask)
        tl.store(q_row + second[None, :], turned_b, mask=q_mask)

        slot = tl.load(slots_ptr + at).to(tl.int64)
        written = (slot >= 0) & real_pair[None, :]
        page = tl.where(slot >= 0, slot // PAGE, 0)
        within = tl.where(slot >= 0, slot % PAGE, 0)
        k_row = k_ptr + page * k_stride_page + within * k_stride_token
        k_row = k_row + k_head[:, None] * k_stride_head
        tl.store(k_row + first[None, :], turned_a, mask=is_k[:, None] & written)
        tl.store(k_row + second[None, :], turned_b, mask=is_k[:, None] & written)
        v_row = v_ptr + page * v_stride_page + within * v_stride_token
        v_row = v_row + v_head[:, None] * v_stride_head
        tl.store(v_row + first[None, :], raw_a, mask=is_v[:, None] & written)
        tl.store(v_row + second[None, :], raw_b, mask=is_v[:, None] & written)


def qknorm_rope_kvwrite(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    n_heads: int,
    *,
    q_norm: torch.Tensor | None = None,
    k_norm: torch.Tensor | None = None,
    eps: float = 1e-6,
    interleaved: bool = False,
    q_out: torch.Tensor | None = None,
    tile: Tile | None = None,
    pdl: bool = False,
) -> torch.Tensor:
    """Rotated queries (tokens, n_heads, head_dim); keys and values are written to the cache.

    qkv: (tokens, (n_heads + 2 * n_kv_heads) * head_dim), queries, then keys, then values.
    cos, sin: (positions, head_dim / 2) fp32. positions, slots: (tokens,) int32 or int64; a slot is
    page * page_tokens + offset, and -1 writes nothing (a padded row of a graph, whose position may
    be anything up to the end of the tables).
    k_cache, v_cache: (pages, page_tokens, n_kv_heads, head_dim), any strides but the last.
    q_norm, k_norm: (head_dim,) weights of the RMS norm before rotation; both or none.
    interleaved rotates the pairs (2i, 2i + 1), else (i, i + head_dim / 2).
    pdl: launched as `dependent_launch` says.
    """
    require_unit_stride(qkv=qkv, cos=cos, sin=sin, k_cache=k_cache, v_cache=v_cache, q_out=q_out)
    require_unit_stride(positions=positions, slots=slots, q_norm=q_norm, k_norm=k_norm)
    if cos.stride() != sin.stride():
        raise ValueError(f"cos and sin: strides must agree, not {cos.stride()}, {sin.stride()}")
    if (q_norm is None) != (k_norm is None):
        raise ValueError("q_norm and k_norm go together: give both or none")
    n_tokens = qkv.shape[0]
    _, page, n_kv_heads, head_dim = k_cache.shape
    q_out = qkv.new_empty((n_tokens, n_heads, head_dim)) if q_out is None else q_out
    if n_heads > 1 and q_out.stride(1) != head_dim:
        raise ValueError(f"q_out: the heads of a row must be contiguous, not {q_out.stride()}")
    tile = tile or choose(
        "qknorm_rope_kvwrite", dtype_name(qkv.dtype), device_facts(qkv), head_dim=head_dim
    )
    launch(
        _rope_kv_kernel,
        (min(n_tokens, MAX_GRID), ceil_div(n_heads + 2 * n_kv_heads, tile.m)),
        tile,
        qkv,
        q_norm,
        k_norm,
        cos,
        sin,
        positions,
        slots,
        q_out,
        k_cache,
        v_cache,
        n_tokens,
        qkv.stride(0),
        cos.stride(0),
        q_out.stride(0),
        *k_cache.stride()[:3],
        *v_cache.stride()[:3],
        eps,
        N_HEADS=n_heads,
        N_KV_HEADS=n_kv_heads,
        HALF=head_dim // 2,
        BLOCK_HALF=next_power_of_2(head_dim // 2),
        PAGE=page,
        BLOCK_HEADS=tile.m,
        QK_NORM=q_norm is not None,
        INTERLEAVED=interleaved,
        PDL=pdl,
    )
    return q_out
