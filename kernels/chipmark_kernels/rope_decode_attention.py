"""Head norms, rotation, the write into the paged cache and decode attention, in one launch.

The grid is that of `decode_attention`: (sequences, KV heads, places of splits). Every program
norms and rotates its own queries out of qkv, which is only read. The newest token belongs to the
program of the last live split: it makes the key, writes key and value into their page and takes
both from registers; no program reads them from the page in this launch. Cached tokens are split
among the live programs, whose number each computes from the length. The last of them to arrive, by
a ticket, merges all partial results in the order of the splits, so bits do not depend on which it
is, and sets the ticket back to 0 for the next launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from chipmark_kernels.arrival_merge import JoinedWorkspace, device_tickets, merge_splits
from chipmark_kernels.decode_attention import split_tokens, split_workspace
from chipmark_kernels.dependent_launch import gdc_launch_dependents, gdc_wait, launches_early
from chipmark_kernels.dtypes import (
    dtype_name,
    next_power_of_2,
    require_elements,
    require_unit_stride,
)
from chipmark_kernels.l2_ahead import (
    LINE_BYTES,
    MOST_AHEAD_BYTES,
    l2_prefetch,
    l2_prefetch_share,
    lines_of,
)
from chipmark_kernels.launch import device_facts, launch
from chipmark_kernels.prefill_attention import LOG2_E
from chipmark_kernels.tiles import Tile, choose


@triton.jit
def _rotated(
    raw, raw_mate, weight, mate_weight, cos, sin, eps, DIM: tl.constexpr, NORM: tl.constexpr
):
    """Heads (rows, dims), normed and turned; `mate` is the other value of each one's pair."""
    x = raw.to(tl.float32)
    mate = raw_mate.to(tl.float32)
    if NORM:
        rstd = tl.rsqrt(tl.sum(x * x, axis=1) / DIM + eps)[:, None]
        # The normed head is rounded before the weight, as Qwen 3 does.
        x = (x * rstd).to(raw.dtype).to(tl.float32) * weight[None, :]
        mate = (mate * rstd).to(raw.dtype).to(tl.float32) * mate_weight[None, :]
        x = x.to(raw.dtype).to(tl.float32)
        mate = mate.to(raw.dtype).to(tl.float32)
    return (x * cos[None, :] + mate * sin[None, :]).to(raw.dtype)


@triton.jit
def _rope_decode_attention_kernel(
    qkv_ptr,
    q_norm_ptr,
    k_norm_ptr,
    cos_ptr,
    sin_ptr,
    positions_ptr,
    slots_ptr,
    k_ptr,
    v_ptr,
    page_table_ptr,
    kv_lens_ptr,
    out_ptr,
    partial_ptr,
    lse_ptr,
    ticket_ptr,
    ahead_ptr,
    then_ptr,
    scale_log2,
    eps,
    qkv_stride,
    angle_stride,
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
    MAX_SPLITS: tl.constexpr,
    MERGED: tl.constexpr,
    HEADS: tl.constexpr,
    QK_NORM: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    PDL: tl.constexpr,
    AHEAD_LINES: tl.constexpr,
    THEN_LINES: tl.constexpr,
    LINE: tl.constexpr,
    LINES_A_ROW: tl.constexpr,
):
    seq = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    n_kv_heads = tl.num_programs(1)
    length = tl.load(kv_lens_ptr + seq)
    cached = tl.maximum(length - 1, 0)
    step = split_tokens(cached, MAX_SPLITS, BLOCK_N)
    # One where nothing is cached, and for a padded row, which gives zeros.
    n_splits = tl.maximum((cached + step - 1) // step, 1)
    start = split * step
    end = tl.minimum(start + step, cached)

    # What is read up to the wait was there before this step began.
    dims = tl.arange(0, BLOCK_D)
    dim_mask = dims < DIM
    if INTERLEAVED:
        pair = dims // 2
        is_first = dims % 2 == 0
        mates = tl.where(is_first, dims + 1, dims - 1)
    else:
        is_first = dims < DIM // 2
        pair = tl.where(is_first, dims, dims - DIM // 2)
        mates = tl.where(is_first, dims + DIM // 2, dims - DIM // 2)
    # A padded row may hold any negative position.
    position = tl.maximum(tl.load(positions_ptr + seq), 0).to(tl.int64)
    slot = tl.load(slots_ptr + seq).to(tl.int64)
    angle = position * angle_stride + pair
    cos = tl.load(cos_ptr + angle, mask=dim_mask, other=1.0).to(tl.float32)
    sin = tl.load(sin_ptr + angle, mask=dim_mask, other=0.0).to(tl.float32)
    sin = tl.where(is_first, -sin, sin)
    q_weight = cos
    q_mate_weight = cos
    k_weight = cos
    k_mate_weight = cos
    if QK_NORM:
        q_weight = tl.load(q_norm_ptr + dims, mask=dim_mask, other=0.0).to(tl.float32)
        q_mate_weight = tl.load(q_norm_ptr + mates, mask=dim_mask, other=0.0).to(tl.float32)
        k_weight = tl.load(k_norm_ptr + dims, mask=dim_mask, other=0.0).to(tl.float32)
        k_mate_weight = tl.load(k_norm_ptr + mates, mask=dim_mask, other=0.0).to(tl.float32)
    table_row = page_table_ptr + seq * table_stride
    k_head = k_ptr + kv_head.to(tl.int64) * k_stride_head
    v_head = v_ptr + kv_head.to(tl.int64) * v_stride_head
    in_block = tl.arange(0, BLOCK_N)
    n = start + in_block
    page = tl.load(table_row + n // PAGE, mask=n < end, other=0).to(tl.int64)
    if PDL:
        if start < end:
            line = tl.arange(0, LINES_A_ROW) * LINE
            k_rows = page * k_stride_page + (n % PAGE) * k_stride_token
            v_rows = page * v_stride_page + (n % PAGE) * v_stride_token
            l2_prefetch(k_head + k_rows[:, None] + line[None, :])
            l2_prefetch(v_head + v_rows[:, None] + line[None, :])
        if AHEAD_LINES:
            l2_prefetch_share(ahead_ptr, AHEAD_LINES, BLOCK_N)
        if THEN_LINES:
            l2_prefetch_share(then_ptr, THEN_LINES, BLOCK_N)
        # Before every return and every store, so that who waits for this waits for all before it.
        gdc_wait()
        gdc_launch_dependents()
    if split >= n_splits:
        return

    is_last = split == n_splits - 1
    in_group = tl.arange(0, BLOCK_M)
    row_mask = in_group < GROUP
    q_mask = row_mask[:, None] & dim_mask[None, :]
    new_mask = dim_mask[None, :] & is_last
    head = kv_head * GROUP + in_group
    qkv_row = qkv_ptr + seq * qkv_stride
    q_row = qkv_row + (head * DIM)[:, None]
    k_row = qkv_row + ((n_kv_heads * GROUP + kv_head) * DIM + tl.arange(0, 1))[:, None]
    # All loads first: what is summed over threads between them would hold the later ones back.
    raw_q = tl.load(q_row + dims[None, :], mask=q_mask, other=0.0)
    raw_q_mate = tl.load(q_row + mates[None, :], mask=q_mask, other=0.0)
    raw_k = tl.load(k_row + dims[None, :], mask=new_mask, other=0.0)
    raw_k_mate = tl.load(k_row + mates[None, :], mask=new_mask, other=0.0)
    new_v = tl.load(k_row + n_kv_heads * DIM + dims[None, :], mask=new_mask, other=0.0)
    q = _rotated(raw_q, raw_q_mate, q_weight, q_mate_weight, cos, sin, eps, DIM, QK_NORM)
    new_k = _rotated(raw_k, raw_k_mate, k_weight, k_mate_weight, cos, sin, eps, DIM, QK_NORM)

    written = new_mask & (slot >= 0)
    slot = tl.maximum(slot, 0)
    k_at = k_head + (slot // PAGE) * k_stride_page + (slot % PAGE) * k_stride_token
    v_at = v_head + (slot // PAGE) * v_stride_page + (slot % PAGE) * v_stride_token
    tl.store(k_at + dims[None, :], new_k, mask=written)
    tl.store(v_at + dims[None, :], new_v, mask=written)

    # The newest token begins the sums of the last split; the others begin with nothing.
    own = tl.sum(q.to(tl.float32) * new_k.to(tl.float32), axis=1) * scale_log2
    top = tl.where(is_last, own, float("-inf"))
    total = tl.where(is_last, 1.0, 0.0) + tl.zeros([BLOCK_M], tl.float32)
    acc = new_v.to(tl.float32) + tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for n_start in range(start, end, BLOCK_N):
        n = n_start + in_block
        n_mask = n < end
        k_rows = page * k_stride_page + (n % PAGE) * k_stride_token
        v_rows = page * v_stride_page + (n % PAGE) * v_stride_token
        after = n + BLOCK_N
        # The next block's pages, so that its rows need not wait for them.
        page = tl.load(table_row + after // PAGE, mask=after < end, other=0).to(tl.int64)
        k_block = k_head + k_rows[None, :] + dims[:, None]
        k = tl.load(k_block, mask=n_mask[None, :] & dim_mask[:, None], other=0.0)
        scores = tl.dot(q, k, input_precision=INPUT_PRECISION) * scale_log2
        scores = tl.where(n_mask[None, :], scores, float("-inf"))
        v_block = v_head + v_rows[:, None] + dims[None, :]
        v = tl.load(v_block, mask=n_mask[:, None] & dim_mask[None, :], other=0.0)
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        probs = tl.exp2(scores - new_top[:, None])
        scaled = tl.exp2(top - new_top)
        total = total * scaled + tl.sum(probs, axis=1)
        acc = acc * scaled[:, None]
        acc += tl.dot(probs.to(v.dtype), v, input_precision=INPUT_PRECISION)
        top = new_top

    y = acc / total[:, None]
    y = tl.where(length > 0, y, 0.0)
    out_row = out_ptr + seq * out_stride_seq
    if MAX_SPLITS > 1:  # noqa: SIM102  (the outer condition is known when compiling)
        if n_splits > 1:
            at = (seq * (n_kv_heads * GROUP) + head) * MAX_SPLITS + split
            tl.store(partial_ptr + at[:, None] * BLOCK_D + dims[None, :], y, mask=row_mask[:, None])
            tl.store(lse_ptr + at, top + tl.log2(total), mask=row_mask)
            ticket = ticket_ptr + seq * n_kv_heads + kv_head
            # All of this program's stores are done before its one ticket is taken.
            tl.debug_barrier()
            arrived = tl.atomic_add(ticket, 1, sem="acq_rel")
            if arrived == n_splits - 1:
                merge_splits(
                    partial_ptr, lse_ptr, out_row, out_stride_head, seq, kv_head, n_splits,
                    GROUP, DIM, BLOCK_D, MAX_SPLITS, MERGED, HEADS,
                )  # fmt: skip
                tl.store(ticket, 0)
            return
    out_at = out_row + head[:, None] * out_stride_head + dims[None, :]
    tl.store(out_at, y.to(out_ptr.dtype.element_ty), mask=q_mask)


def rope_decode_attention(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    kv_lens: torch.Tensor,
    n_heads: int,
    scale: float,
    *,
    q_norm: torch.Tensor | None = None,
    k_norm: torch.Tensor | None = None,
    eps: float = 1e-6,
    interleaved: bool = False,
    input_precision: str = "ieee",
    pdl: bool | None = None,
    ahead: tuple[torch.Tensor, ...] = (),
    out: torch.Tensor | None = None,
    workspace: JoinedWorkspace | None = None,
    tile: Tile | None = None,
) -> torch.Tensor:
    """Attention output (seqs, n_heads, head_dim) of each sequence's newest token, out of its qkv.

    `qknorm_rope_kvwrite` and then `decode_attention`, with their arguments; one token a sequence.
    The slot of a sequence is that of its last token in page_table, or -1 with a length of 0 (a
    padded row of a graph): then nothing is written and the output is 0.
    pdl: launched as `dependent_launch` says, None for where it can be; lengths, page table, slots,
    positions and cached tokens must then be older than the launch before.
    ahead: up to two contiguous weights that the next launches read; with `pdl` the first 16 MiB of
    them are asked into L2 while it waits.
    workspace: by default partial results of its own and the device's tickets, so that launches on
    one device must be in order, as those of one stream are.
    Raises ValueError for shapes and memory that the kernel would misread.
    """
    require_unit_stride(qkv=qkv, cos=cos, sin=sin, k_cache=k_cache, v_cache=v_cache, out=out)
    require_unit_stride(positions=positions, slots=slots, q_norm=q_norm, k_norm=k_norm)
    require_unit_stride(page_table=page_table, kv_lens=kv_lens)
    if cos.stride() != sin.stride():
        raise ValueError(f"cos and sin: strides must agree, not {cos.stride()}, {sin.stride()}")
    if (q_norm is None) != (k_norm is None):
        raise ValueError("q_norm and k_norm go together: give both or none")
    if len(ahead) > 2 or not all(weight.is_contiguous() for weight in ahead):
        raise ValueError("ahead: give up to two contiguous weights")
    n_seqs, page = qkv.shape[0], k_cache.shape[1]
    n_kv_heads, head_dim = k_cache.shape[2:]
    facts = device_facts(qkv)
    early = launches_early(facts) and qkv.device.type != "cpu"  # an interpreted launch waits
    pdl = early if pdl is None else pdl
    if pdl and not early:
        raise ValueError(f"pdl: {facts.name} has no dependent launch here")
    out = qkv.new_empty((n_seqs, n_heads, head_dim)) if out is None else out
    tile = tile or choose(
        "rope_decode_attention",
        dtype_name(qkv.dtype),
        facts,
        seqs=n_seqs,
        kv_heads=n_kv_heads,
        group=n_heads // n_kv_heads,
        head_dim=head_dim,
        context=page_table.shape[1] * page,
    )
    block_d = max(next_power_of_2(head_dim), 16)
    splits = None
    tickets = None
    if tile.split > 1:
        if workspace is None:
            workspace = JoinedWorkspace(
                split_workspace(out, tile.split), device_tickets(qkv.device)
            )
        splits, tickets = workspace.splits, workspace.tickets
        places = n_seqs * n_heads * tile.split
        require_elements("workspace.splits.partial", splits.partial, places * block_d)
        require_elements("workspace.splits.lse", splits.lse, places)
        require_elements("workspace.tickets", tickets, n_seqs * n_kv_heads)
    first, second = (*ahead, None, None)[:2] if pdl else (None, None)
    first_lines = lines_of(first, MOST_AHEAD_BYTES)
    heads = next_power_of_2(n_heads // n_kv_heads)
    launch(
        _rope_decode_attention_kernel,
        (n_seqs, n_kv_heads, tile.split),
        tile,
        qkv,
        q_norm,
        k_norm,
        cos,
        sin,
        positions,
        slots,
        k_cache,
        v_cache,
        page_table,
        kv_lens,
        out,
        splits.partial if splits is not None else None,
        splits.lse if splits is not None else None,
        tickets,
        first if first is None else first.view(torch.uint8),
        second if second is None else second.view(torch.uint8),
        scale * LOG2_E,
        eps,
        qkv.stride(0),
        cos.stride(0),
        *k_cache.stride()[:3],
        *v_cache.stride()[:3],
        *out.stride()[:2],
        page_table.stride(0),
        GROUP=n_heads // n_kv_heads,
        PAGE=page,
        DIM=head_dim,
        BLOCK_D=block_d,
        BLOCK_M=tile.m,
        BLOCK_N=tile.n,
        MAX_SPLITS=tile.split,
        MERGED=tile.k,
        HEADS=heads,
        QK_NORM=q_norm is not None,
        INTERLEAVED=interleaved,
        INPUT_PRECISION=input_precision,
        PDL=pdl,
        AHEAD_LINES=first_lines,
        THEN_LINES=lines_of(second, MOST_AHEAD_BYTES - first_lines * LINE_BYTES),
        LINE=LINE_BYTES // qkv.element_size(),
        LINES_A_ROW=next_power_of_2(max(head_dim * qkv.element_size() // LINE_BYTES, 1)),
    )
    return out
