"""Attention of one new token a sequence over the paged cache, split along the context.

All query heads of a KV head share one dot product, so the cache is read once. The grid has
`tile.split` places a sequence whatever the lengths are (a captured graph may not grow); how many
of them work, and on which tokens, each program computes from the length in device memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from chipmark_kernels.dependent_launch import gdc_launch_dependents, gdc_wait
from chipmark_kernels.dtypes import (
    dtype_name,
    next_power_of_2,
    require_elements,
    require_unit_stride,
)
from chipmark_kernels.launch import device_facts, launch
from chipmark_kernels.prefill_attention import LOG2_E
from chipmark_kernels.tiles import Tile, choose


@triton.jit
def split_tokens(length, max_splits, BLOCK_N: tl.constexpr):
    """Tokens of one split: the fewest whole blocks with which max_splits cover `length`."""
    blocks = (length + BLOCK_N - 1) // BLOCK_N
    return tl.maximum((blocks + max_splits - 1) // max_splits, 1) * BLOCK_N


@triton.jit
def _decode_attention_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    page_table_ptr,
    kv_lens_ptr,
    out_ptr,
    partial_ptr,
    lse_ptr,
    scale_log2,
    q_stride_seq,
    q_stride_head,
    k_stride_page,
    k_stride_token,
    k_stride_head,
    v_stride_page,
    v_stride_token,
    v_stride_head,
    out_stride_seq,
    out_stride_head,
    table_stride,
    GROUP: tl.constexpr,
    PAGE: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    DIRECT: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    seq = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    length = tl.load(kv_lens_ptr + seq)
    max_splits = tl.num_programs(2)
    step = split_tokens(length, max_splits, BLOCK_N)
    start = split * step
    end = tl.minimum(start + step, length)
    # The length was uploaded before the whole step; a block without tokens waits as well.
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    if not DIRECT:  # noqa: SIM102  (the outer condition is known when compiling)
        if start >= end:
            return

    in_group = tl.arange(0, BLOCK_M)
    row_mask = in_group < GROUP
    dims = tl.arange(0, BLOCK_D)
    dim_mask = dims < DIM
    head = kv_head * GROUP + in_group
    q_mask = row_mask[:, None] & dim_mask[None, :]
    q_rows = seq * q_stride_seq + head * q_stride_head
    q = tl.load(q_ptr + q_rows[:, None] + dims[None, :], mask=q_mask, other=0.0)

    table_row = page_table_ptr + seq * table_stride
    k_head = k_ptr + kv_head.to(tl.int64) * k_stride_head
    v_head = v_ptr + kv_head.to(tl.int64) * v_stride_head
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.full([BLOCK_M], 0.0, tl.float32)
    acc = tl.full([BLOCK_M, BLOCK_D], 0.0, tl.float32)
    in_block = tl.arange(0, BLOCK_N)
    n = start + in_block
    page = tl.load(table_row + n // PAGE, mask=n < end, other=0).to(tl.int64)
    for n_start in range(start, end, BLOCK_N):
        n = n_start + in_block
        n_mask = n < end
        k_rows = page * k_stride_page + (n % PAGE) * k_stride_token
        v_rows = page * v_stride_page + (n % PAGE) * v_stride_token
        # The next block's pages, so that its rows need not wait for them.
        after = n + BLOCK_N
        page = tl.load(table_row + after // PAGE, mask=after < end, other=0).to(tl.int64)
        k_at = k_head + k_rows[None, :] + dims[:, None]
        k = tl.load(k_at, mask=n_mask[None, :] & dim_mask[:, None], other=0.0)
        scores = tl.dot(q, k, input_precision=INPUT_PRECISION) * scale_log2
        scores = tl.where(n_mask[None, :], scores, float("-inf"))
        v_at = v_head + v_rows[:, None] + dims[None, :]
        v = tl.load(v_at, mask=n_mask[:, None] & dim_mask[None, :], other=0.0)
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        probs = tl.exp2(scores - new_top[:, None])
        scaled = tl.exp2(top - new_top)
        total = total * scaled + tl.sum(probs, axis=1)
        acc = acc * scaled[:, None]
        acc += tl.dot(probs.to(v.dtype), v, input_precision=INPUT_PRECISION)
        top = new_top

    # An empty sequence (a padded row of a graph) has total 0 and gives zeros.
    total = tl.where(total > 0.0, total, 1.0)
    y = acc / total[:, None]
    if DIRECT:
        out_rows = seq * out_stride_seq + head * out_stride_head
        out_at = out_ptr + out_rows[:, None] + dims[None, :]
        tl.store(out_at, y.to(out_ptr.dtype.element_ty), mask=q_mask)
    else:
        n_heads = tl.num_programs(1) * GROUP
        at = (seq * n_heads + head) * max_splits + split
        tl.store(partial_ptr + at[:, None] * BLOCK_D + dims[None, :], y, mask=row_mask[:, None])
        tl.store(lse_ptr + at, top + tl.log2(total), mask=row_mask)


@triton.jit
def _merge_splits_kernel(
    partial_ptr,
    lse_ptr,
    kv_lens_ptr,
    out_ptr,
    out_stride_seq,
    out_stride_head,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    PDL: tl.constexpr,
):
    seq = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    length = tl.load(kv_lens_ptr + seq)
    step = split_tokens(length, MAX_SPLITS, BLOCK_N)
    n_splits = (length + step - 1) // step
    base = (seq * tl.num_programs(1) + head) * MAX_SPLITS
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    every = tl.arange(0, MAX_SPLITS)
    lse = tl.load(lse_ptr + base + every, mask=every < n_splits, other=float("-inf"))
    # A sequence without a token has no split: the maximum would be -inf and its weights NaN.
    top = tl.where(n_splits > 0, tl.max(lse, axis=0), 0.0)
    total = tl.sum(tl.exp2(lse - top), axis=0)
    total = tl.where(total > 0.0, total, 1.0)
    dims = tl.arange(0, BLOCK_D)
    acc = tl.full([BLOCK_D], 0.0, tl.float32)
    for first in range(0, n_splits, BLOCK_SPLITS):
        split = first + tl.arange(0, BLOCK_SPLITS)
        live = split < n_splits
        weight = tl.load(lse_ptr + base + split, mask=live, other=float("-inf"))
        weight = tl.exp2(weight - top)
        rows = partial_ptr + (base + split)[:, None] * BLOCK_D + dims[None, :]
        part = tl.load(rows, mask=live[:, None], other=0.0)
        acc += tl.sum(part * weight[:, None], axis=0)
    out_at = out_ptr + seq * out_stride_seq + head * out_stride_head + dims
    tl.store(out_at, (acc / total).to(out_ptr.dtype.element_ty), mask=dims < DIM)


@dataclass(frozen=True, slots=True)
class SplitWorkspace:
    """Partial results of the splits: (seqs, heads, splits, padded dim) and (seqs, heads, splits),
    both fp32. Made once by `split_workspace` where a graph is captured."""

    partial: torch.Tensor
    lse: torch.Tensor


def split_workspace(q: torch.Tensor, max_splits: int) -> SplitWorkspace:
    """A workspace for queries shaped like q (seqs, n_heads, head_dim)."""
    n_seqs, n_heads, head_dim = q.shape
    block_d = max(next_power_of_2(head_dim), 16)
    return SplitWorkspace(
        q.new_empty((n_seqs, n_heads, max_splits, block_d), dtype=torch.float32),
        q.new_empty((n_seqs, n_heads, max_splits), dtype=torch.float32),
    )


def decode_tile(q: torch.Tensor, n_kv_heads: int, max_context: int) -> Tile:
    """The tile, with the number of split places, for queries shaped like q on its device."""
    n_seqs, n_heads, head_dim = q.shape
    return choose(
        "decode_attention",
        dtype_name(q.dtype),
        device_facts(q),
        seqs=n_seqs,
        kv_heads=n_kv_heads,
        group=n_heads // n_kv_heads,
        head_dim=head_dim,
        context=max_context,
    )


def decode_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    kv_lens: torch.Tensor,
    scale: float,
    *,
    input_precision: str = "ieee",
    out: torch.Tensor | None = None,
    workspace: SplitWorkspace | None = None,
    tile: Tile | None = None,
    pdl: bool = False,
) -> torch.Tensor:
    """Attention output (seqs, n_heads, head_dim) of each sequence's newest token.

    q: (seqs, n_heads, head_dim). k_cache, v_cache: (pages, page_tokens, n_kv_heads, head_dim).
    page_table: (seqs, width) int32. kv_lens: (seqs,) int32, the newest token included; 0 (a padded
    row of a graph) gives zeros. The number of splits follows the batch, the device and the width
    of the page table, so bits may differ between batch sizes. pdl: both launches as
    `dependent_launch` says; kv_lens is read before the wait.
    """
    require_unit_stride(q=q, k_cache=k_cache, v_cache=v_cache, page_table=page_table, out=out)
    require_unit_stride(kv_lens=kv_lens)
    n_seqs, n_heads, head_dim = q.shape
    page, n_kv_heads = k_cache.shape[1:3]
    group = n_heads // n_kv_heads
    out = torch.empty_like(q) if out is None else out
    tile = tile or decode_tile(q, n_kv_heads, page_table.shape[1] * page)
    block_d = max(next_power_of_2(head_dim), 16)
    if workspace is None and tile.split > 1:
        workspace = split_workspace(q, tile.split)
    if workspace is not None:
        places = n_seqs * n_heads * tile.split
        require_elements("workspace.partial", workspace.partial, places * block_d)
        require_elements("workspace.lse", workspace.lse, places)
    launch(
        _decode_attention_kernel,
        (n_seqs, n_kv_heads, tile.split),
        tile,
        q,
        k_cache,
        v_cache,
        page_table,
        kv_lens,
        out,
        workspace.partial if workspace is not None else None,
        workspace.lse if workspace is not None else None,
        scale * LOG2_E,
        *q.stride()[:2],
        *k_cache.stride()[:3],
        *v_cache.stride()[:3],
        *out.stride()[:2],
        page_table.stride(0),
        GROUP=group,
        PAGE=page,
        DIM=head_dim,
        BLOCK_D=block_d,
        BLOCK_M=tile.m,
        BLOCK_N=tile.n,
        DIRECT=tile.split == 1,
        INPUT_PRECISION=input_precision,
        PDL=pdl,
    )
    if workspace is not None and tile.split > 1:
        merge = choose("merge_splits", "fp32", device_facts(q), splits=tile.split)
        launch(
            _merge_splits_kernel,
            (n_seqs, n_heads),
            merge,
            workspace.partial,
            workspace.lse,
            kv_lens,
            out,
            *out.stride()[:2],
            DIM=head_dim,
            BLOCK_D=block_d,
            BLOCK_N=tile.n,
            MAX_SPLITS=tile.split,
            BLOCK_SPLITS=merge.n,
            PDL=pdl,
        )
    return out
