"""Partial results of splits, merged within their launch by the program that arrives last.

Each live split stores its part and takes a ticket. Nobody waits: who takes the last ticket finds
all parts there, merges them in the order of the splits, and sets the ticket back to 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl

from chipmark_kernels.decode_attention import SplitWorkspace

_TICKETS = 1 << 16
"""Sequences times KV heads of a launch by the device's own tickets."""


@triton.jit
def merge_splits(
    partial_ptr,
    lse_ptr,
    out_row,
    out_stride_head,
    seq,
    kv_head,
    n_splits,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
    MERGED: tl.constexpr,
    HEADS: tl.constexpr,
):
    """Sum the splits of one KV head's queries, MERGED of them at a time, in their order.

    Other programs wrote them during this launch: they are read past the L1 cache.
    """
    dims = tl.arange(0, BLOCK_D)
    in_group = tl.arange(0, HEADS)
    head = kv_head * GROUP + in_group
    row_mask = in_group < GROUP
    base = (seq * (tl.num_programs(1) * GROUP) + head) * MAX_SPLITS
    top = tl.full([HEADS], float("-inf"), tl.float32)
    total = tl.full([HEADS], 0.0, tl.float32)
    acc = tl.full([HEADS, BLOCK_D], 0.0, tl.float32)
    for first in range(0, n_splits, MERGED):
        split = first + tl.arange(0, MERGED)
        live = (split < n_splits)[:, None] & row_mask[None, :]
        at = base[None, :] + split[:, None]
        lse = tl.load(lse_ptr + at, mask=live, other=float("-inf"), cache_modifier=".cg")
        rows = partial_ptr + at[:, :, None] * BLOCK_D + dims[None, None, :]
        part = tl.load(rows, mask=live[:, :, None], other=0.0, cache_modifier=".cg")
        # A head beyond the group has no split: -inf everywhere would make NaN.
        new_top = tl.where(row_mask, tl.maximum(top, tl.max(lse, axis=0)), 0.0)
        weight = tl.exp2(lse - new_top[None, :])
        scaled = tl.exp2(top - new_top)
        total = total * scaled + tl.sum(weight, axis=0)
        acc = acc * scaled[:, None] + tl.sum(part * weight[:, :, None], axis=0)
        top = new_top
    y = acc / tl.where(row_mask, total, 1.0)[:, None]
    out_at = out_row + head[:, None] * out_stride_head + dims[None, :]
    tl.store(out_at, y.to(out_row.dtype.element_ty), mask=row_mask[:, None] & (dims < DIM)[None, :])


@dataclass(frozen=True, slots=True)
class JoinedWorkspace:
    """What the splits of one launch share: partial results, and a ticket a sequence and KV head.

    tickets: int32, all 0 before and after a launch. Launches that use the same ones must be in
    order, as those of one stream are.
    """

    splits: SplitWorkspace
    tickets: torch.Tensor


@lru_cache(maxsize=16)
def device_tickets(device: torch.device) -> torch.Tensor:
    """The device's own tickets, for launches of one stream.

    They live as long as the process, for a graph keeps their address and finds in them what the
    launch before has left. RuntimeError where a capture would have to make them: their memory would
    be the graph's.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("device_tickets: make the launch once before it is captured")
    return torch.zeros(_TICKETS, dtype=torch.int32, device=device)
