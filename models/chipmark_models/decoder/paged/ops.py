"""The operations of the decoder over pages.

Three implementations have all of them: `triton` (the kernels), `torch` (plain torch and cuBLAS)
and `reference` (the kernels' references); `hopper` has products of many rows only, `pdl` the
decode step in dependent launches, `fused` and `fused_ahead` operations that join others, `mixed`
and `scaled` products by cuBLAS between our kernels, `cudnn` and `flash` attention of cold prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from chipmark_models.decoder.op_table import Implementation, OpTable
from chipmark_models.decoder.paged.quantised import QuantisedMatrix

Matrix = torch.Tensor | QuantisedMatrix
"""A weight (n, k), plain or quantised."""

FEW_ROWS = 64
"""Rows up to which a product is bound by reading its weight; more are bound by arithmetic."""


class Fp8Rows(NamedTuple):
    """Activations quantised a row at a time."""

    values: torch.Tensor
    """float8_e4m3fn (rows, k)."""

    scales: torch.Tensor
    """float32 (rows,)."""

    dtype: torch.dtype
    """What a product of them is rounded to."""


def takes_fp8_rows(matrix: Matrix, n_rows: int) -> bool:
    """Whether a product by `matrix` takes so many rows as Fp8Rows: by `fp8`, more than FEW_ROWS.

    Fewer rows gain nothing by smaller activations: they are multiplied as they are, in one launch.
    """
    return isinstance(matrix, QuantisedMatrix) and matrix.precision == "fp8" and n_rows > FEW_ROWS


@dataclass(frozen=True, slots=True)
class PagedOps:
    """One implementation of each operation.

    A product takes (x, matrix, bias, *, norm, eps, swiglu, residual) and gives (rows, n): the norm
    before the product, SwiGLU and the residual after it. x: (rows, k), or Fp8Rows, normed, where
    `takes_fp8_rows` is true. A residual may be written over and returned: the decoder no longer
    reads its old values.
    """

    embed_norm: Implementation
    """(ids, table, norm, eps) -> hidden, normed."""

    quantise_rows: Implementation
    """(x, norm, eps) -> Fp8Rows."""

    qkv: Implementation
    """Product: queries, keys and values."""

    rope_kv: Implementation
    """(qkv, cos, sin, positions, slots, k_cache, v_cache, n_heads, *, q_norm, k_norm, eps) -> q:
    head norms, rotation, and keys and values written into the pages; slot -1 writes nothing."""

    prefill_attention: Implementation
    """(q, k_cache, v_cache, page_table, cu_q, kv_lens, scale) -> like q."""

    decode_attention: Implementation
    """(q, k_cache, v_cache, page_table, kv_lens, scale) -> like q."""

    out_add: Implementation
    """Product: the output of attention, onto the residual."""

    gate_up_swiglu: Implementation
    """Product: gate and up, then SwiGLU."""

    down_add: Implementation
    """Product: down, onto the residual."""

    head: Implementation
    """Product: logits."""

    greedy: Implementation
    """(logits) -> ids int32 (rows,), the lowest of equals."""

    rope_decode_attention: Implementation | None = None
    """rope_kv and decode_attention in one: (qkv, cos, sin, positions, slots, k_cache, v_cache,
    page_table, kv_lens, n_heads, scale, *, q_norm, k_norm, eps, ahead) -> attended (rows, n_heads,
    head_dim). ahead: the weights that are read next, in this order, which it may ask for early.
    None: these two, one after the other."""

    cold_attention: Implementation | None = None
    """(q, k, v, scale) -> like q: causal attention of one prompt from its first token on, over its
    own keys and values (tokens, n_kv_heads, head_dim), which need not be contiguous. None:
    `prefill_attention` over the pages."""


PRODUCTS = ("qkv", "out_add", "gate_up_swiglu", "down_add", "head")
"""Operations that are products by a weight: one function of each implementation serves all."""
JOINED = {
    "rope_decode_attention": ("rope_kv", "decode_attention"),
    "cold_attention": ("prefill_attention",),
}
"""The operations that one operation does in one launch."""

TABLE = OpTable(
    PagedOps,
    {
        "triton": "chipmark_models.decoder.paged.triton_ops",
        "torch": "chipmark_models.decoder.paged.torch_ops",
        "reference": "chipmark_models.decoder.paged.reference_ops",
        "hopper": "chipmark_models.decoder.paged.hopper_ops",
        "pdl": "chipmark_models.decoder.paged.pdl_ops",
        "fused": "chipmark_models.decoder.paged.fused_ops",
        "fused_ahead": "chipmark_models.decoder.paged.fused_ahead_ops",
        "mixed": "chipmark_models.decoder.paged.mixed_ops",
        "scaled": "chipmark_models.decoder.paged.scaled_ops",
        "cudnn": "chipmark_models.decoder.paged.cudnn_ops",
        "flash": "chipmark_models.decoder.paged.flash_ops",
    },
    partial={
        "hopper": PRODUCTS,
        "pdl": ("embed_norm", "rope_kv", "decode_attention", "greedy", *PRODUCTS),
        "fused": ("rope_decode_attention",),
        "fused_ahead": ("rope_decode_attention",),
        "mixed": PRODUCTS,
        "scaled": PRODUCTS,
        "cudnn": ("cold_attention",),
        "flash": ("cold_attention",),
    },
    separate=tuple(JOINED),
)
"""What computes each operation."""
