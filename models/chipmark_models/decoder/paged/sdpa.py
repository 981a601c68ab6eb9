"""Causal attention of one prompt by a named backend of torch's scaled dot product attention."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from chipmark_models.decoder.op_table import Implementation


def causal_by(backend: SDPBackend) -> Implementation:
    """`PagedOps.cold_attention` by `backend`; it raises RuntimeError where torch has no kernel of
    it for such queries."""

    def cold_attention(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
    ) -> torch.Tensor:
        with sdpa_kernel(backend):
            attended = functional.scaled_dot_product_attention(
                q.transpose(0, 1)[None],
                k.transpose(0, 1)[None],
                v.transpose(0, 1)[None],
                is_causal=True,
                scale=scale,
                enable_gqa=q.shape[1] != k.shape[1],
            )
        return attended[0].transpose(0, 1)

    return cold_attention
