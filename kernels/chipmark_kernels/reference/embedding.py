"""Embedding gather and first norm in plain torch."""

from __future__ import annotations

import torch

from chipmark_kernels.reference.rmsnorm import rmsnorm_reference


def embedding_rmsnorm_reference(
    ids: torch.Tensor,
    table: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    *,
    cast_first: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `chipmark_kernels.embedding.embedding_rmsnorm`."""
    hidden = table[ids.long()]
    return hidden, rmsnorm_reference(hidden, weight, eps, cast_first=cast_first)[0]
