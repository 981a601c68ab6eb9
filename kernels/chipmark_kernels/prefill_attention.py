"""Causal attention of a ragged batch of new tokens over the paged cache, cached prefix included.

A block of rows holds BLOCK_Q consecutive tokens of one sequence times the query heads of one KV
head, so keys and values are read once for the whole group. Which sequence a block belongs to is
searched on the device; the grid is an upper bound that the host knows without a copy.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from chipmark_kernels.dtypes import dtype_name, next_power_of_2, require_unit_stride
from chipmark_kernels.launch import device_facts, launch
from chipmark_kernels.tiles import Tile, choose

LOG2_E = 1.4426950408889634


@triton.jit
def _sequence_of_block(cu_q_ptr, block, n_seqs, BLOCK_Q: tl.constexpr):
    """The last sequence i with cu_q[i] // BLOCK_Q + i <= block, found by bisection."""
    low = 0
    high = n_seqs
    while high - low > 1:
        middle = (low + high) // 2
        starts = tl.load(cu_q_ptr + middle) // BLOCK_Q + middle
        if starts <= block:
            low = middle
        else:
            high = middle
    return low


@triton.jit(do_not_specialize=["n_seqs"])
def _prefill_attention_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    page_table_ptr,
    cu_q_ptr,
    kv_lens_ptr,
    out_ptr,
    n_seqs,
    scale_log2,
    q_stride_token,
    q_stride_head,
    k_stride_page,
    k_stride_token,
    k_stride_head,
    v_stride_page,
    v_stride_token,
    v_stride_head,
    out_stride_token,
    out_stride_head,
    table_stride,
    GROUP: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
    PAGE: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
):
    BLOCK_Q: tl.constexpr = BLOCK_M // BLOCK_GROUP
    # Last blocks first: they see the longest context, so the tail of the launch is short.
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    kv_head = tl.program_id(1)
    seq = _sequence_of_block(cu_q_ptr, block, n_seqs, BLOCK_Q)
    q_start = tl.load(cu_q_ptr + seq)
    q_len = tl.load(cu_q_ptr + seq + 1) - q_start
    first_token = (block - (q_start // BLOCK_Q + seq)) * BLOCK_Q
    if first_token >= q_len:
        return
    context = tl.load(kv_lens_ptr + seq) - q_len

    rows = tl.arange(0, BLOCK_M)
    token = first_token + rows // BLOCK_GROUP
    in_group = rows % BLOCK_GROUP
    row_mask = (token < q_len) & (in_group < GROUP)
    dims = tl.arange(0, BLOCK_D)
    dim_mask = dims < DIM
    head = kv_head * GROUP + in_group
    at = (q_start + token).to(tl.int64)
    q_rows = at * q_stride_token + head * q_stride_head
    q_mask = row_mask[:, None] & dim_mask[None, :]
    q = tl.load(q_ptr + q_rows[:, None] + dims[None, :], mask=q_mask, other=0.0)

    position = context + token
    kv_end = context + tl.minimum(first_token + BLOCK_Q, q_len)
    unmasked_end = (context + first_token + 1) // BLOCK_N * BLOCK_N
    table_row = page_table_ptr + tl.cast(seq, tl.int64) * table_stride
    k_head = k_ptr + tl.cast(kv_head, tl.int64) * k_stride_head
    v_head = v_ptr + tl.cast(kv_head, tl.int64) * v_stride_head

    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.full([BLOCK_M], 0.0, tl.float32)
    acc = tl.full([BLOCK_M, BLOCK_D], 0.0, tl.float32)
    # First the blocks that every row sees whole, then those that the diagonal cuts.
    for diagonal in tl.static_range(2):
        start = unmasked_end if diagonal else 0
        end = kv_end if diagonal else unmasked_end
        for n_start in range(start, end, BLOCK_N):
            n = n_start + tl.arange(0, BLOCK_N)
            if diagonal:
                n_mask = n < kv_end
                page = tl.load(table_row + n // PAGE, mask=n_mask, other=0).to(tl.int64)
            else:
                n_mask = n >= 0
                page = tl.load(table_row + n // PAGE).to(tl.int64)
            k_rows = page * k_stride_page + (n % PAGE) * k_stride_token
            v_rows = page * v_stride_page + (n % PAGE) * v_stride_token
            k_at = k_head + k_rows[None, :] + dims[:, None]
            v_at = v_head + v_rows[:, None] + dims[None, :]
            if diagonal:
                k = tl.load(k_at, mask=n_mask[None, :] & dim_mask[:, None], other=0.0)
                v = tl.load(v_at, mask=n_mask[:, None] & dim_mask[None, :], other=0.0)
            elif DIM == BLOCK_D:
                k = tl.load(k_at)
                v = tl.load(v_at)
            else:
                k = tl.load(k_at, mask=dim_mask[:, None], other=0.0)
                v = tl.load(v_at, mask=dim_mask[None, :], other=0.0)
            scores = tl.dot(q, k, input_precision=INPUT_PRECISION)
            if diagonal:
                seen = (n[None, :] <= position[:, None]) & n_mask[None, :]
                scores = tl.where(seen, scores, float("-inf"))
            # The scale is positive, so it can wait for the exponent, where it is part of one FMA.
            new_top = tl.maximum(top, tl.max(scores, axis=1) * scale_log2)
            probs = tl.exp2(scores * scale_log2 - new_top[:, None])
            scaled = tl.exp2(top - new_top)
            total = total * scaled + tl.sum(probs, axis=1)
            acc = acc * scaled[:, None]
            acc += tl.dot(probs.to(v.dtype), v, input_precision=INPUT_PRECISION)
            top = new_top
    y = acc / total[:, None]
    out_rows = at * out_stride_token + head * out_stride_head
    tl.store(
        out_ptr + out_rows[:, None] + dims[None, :], y.to(out_ptr.dtype.element_ty), mask=q_mask
    )


def prefill_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    cu_q: torch.Tensor,
    kv_lens: torch.Tensor,
    scale: float,
    *,
    input_precision: str = "ieee",
    out: torch.Tensor | None = None,
    tile: Tile | None = None,
) -> torch.Tensor:
    """Attention output (tokens, n_heads, head_dim) of new tokens whose KV is already in the cache.

    q: (tokens, n_heads, head_dim). k_cache, v_cache: (pages, page_tokens, n_kv_heads, head_dim).
    page_table: (seqs, width) int32. cu_q: (seqs + 1,) int32, where each sequence's tokens begin;
    a sequence may have none. kv_lens: (seqs,) int32, cached plus new tokens. Token j of a sequence
    stands at position kv_len - q_len + j and sees the keys up to itself. Rows of q behind the last
    of cu_q (a padded chunk) are left alone, and so are theirs of `out`. The scale is positive.
    """
    require_unit_stride(q=q, k_cache=k_cache, v_cache=v_cache, page_table=page_table, out=out)
    require_unit_stride(cu_q=cu_q, kv_lens=kv_lens)
    n_tokens, n_heads, head_dim = q.shape
    page, n_kv_heads = k_cache.shape[1:3]
    n_seqs = kv_lens.shape[0]
    group = n_heads // n_kv_heads
    out = torch.empty_like(q) if out is None else out
    if n_seqs == 0:
        return out
    tile = tile or choose(
        "prefill_attention",
        dtype_name(q.dtype),
        device_facts(q),
        rows=n_tokens * next_power_of_2(group),
        head_dim=head_dim,
        group=group,
    )
    block_q = tile.m // next_power_of_2(group)
    launch(
        _prefill_attention_kernel,
        (n_tokens // block_q + n_seqs, n_kv_heads),
        tile,
        q,
        k_cache,
        v_cache,
        page_table,
        cu_q,
        kv_lens,
        out,
        n_seqs,
        scale * LOG2_E,
        *q.stride()[:2],
        *k_cache.stride()[:3],
        *v_cache.stride()[:3],
        *out.stride()[:2],
        page_table.stride(0),
        GROUP=group,
        BLOCK_GROUP=next_power_of_2(group),
        PAGE=page,
        DIM=head_dim,
        BLOCK_D=max(next_power_of_2(head_dim), 16),
        BLOCK_M=tile.m,
        BLOCK_N=tile.n,
        INPUT_PRECISION=input_precision,
    )
    return out
