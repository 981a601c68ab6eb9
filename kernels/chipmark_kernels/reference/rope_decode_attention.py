"""One token a sequence through norms, rotation, cache write and attention, in plain torch."""

from __future__ import annotations

import torch

from chipmark_kernels.reference.attention import decode_attention_reference
from chipmark_kernels.reference.rope_kv import qknorm_rope_kvwrite_reference


def rope_decode_attention_reference(
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
) -> torch.Tensor:
    """As `chipmark_kernels.rope_decode_attention.rope_decode_attention`: the references of the two
    operations that it joins, one after the other, with queries rounded between them."""
    q = qknorm_rope_kvwrite_reference(
        qkv, cos, sin, positions, slots, k_cache, v_cache, n_heads,
        q_norm=q_norm, k_norm=k_norm, eps=eps, interleaved=interleaved,
    )  # fmt: skip
    return decode_attention_reference(q, k_cache, v_cache, page_table, kv_lens, scale)
