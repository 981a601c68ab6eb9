"""Joined operations that ask for the weights of the next launches while they wait for their own.

What that gains depends on what else the memory has to do: it is measured in the whole step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from chipmark_kernels import rope_decode_attention as joined
from chipmark_models.decoder.op_table import Implementation
from chipmark_models.decoder.paged.ops import Matrix
from chipmark_models.decoder.paged.quantised import QuantisedMatrix


def rope_decode_attention(*args: Any, ahead: tuple[Matrix, ...] = (), **norms: Any) -> torch.Tensor:
    """As `fused_ops.rope_decode_attention`, with the first weights of `ahead` asked into L2."""
    weights = (m.packed if isinstance(m, QuantisedMatrix) else m for m in ahead)
    return joined.rope_decode_attention(*args, ahead=tuple(weights), **norms)


OPS: Mapping[str, Implementation] = {"rope_decode_attention": rope_decode_attention}
"""The function of each operation that it has, by its name."""
