"""Operations that join others in one launch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from chipmark_kernels import rope_decode_attention as joined
from chipmark_models.decoder.op_table import Implementation
from chipmark_models.decoder.paged.ops import Matrix


def rope_decode_attention(*args: Any, ahead: tuple[Matrix, ...] = (), **norms: Any) -> torch.Tensor:
    """Norms, rotation, cache write and attention of one token a row; nothing is asked for ahead."""
    return joined.rope_decode_attention(*args, **norms)


OPS: Mapping[str, Implementation] = {"rope_decode_attention": rope_decode_attention}
"""The function of each operation that it has, by its name."""
