"""Attention of cold prompts by FlashAttention's kernels, as torch has them."""

from __future__ import annotations

from collections.abc import Mapping

from torch.nn.attention import SDPBackend

from chipmark_models.decoder.op_table import Implementation
from chipmark_models.decoder.paged.sdpa import causal_by

OPS: Mapping[str, Implementation] = {"cold_attention": causal_by(SDPBackend.FLASH_ATTENTION)}
"""The function of each operation that it has, by its name."""
