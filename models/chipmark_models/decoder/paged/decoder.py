"""The decoder over paged keys and values: one launch of ragged rows, or one token a row."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch

from chipmark_kernels.formats import PAGE_TOKENS
from chipmark_models.decoder.op_table import Implementation
from chipmark_models.decoder.paged.kv import PagedKv
from chipmark_models.decoder.paged.ops import PagedOps, takes_fp8_rows
from chipmark_models.decoder.paged.weights import Product, activation_dtype, load_weights
from chipmark_models.rope import cos_sin_tables
from chipmark_models.weights.prepared import PrecisionWeights


@dataclass(frozen=True, slots=True)
class ColdRows:
    """What the rows of a prefill launch that all begin at position 0 attend to: themselves."""

    lengths: tuple[int, ...]
    """Tokens of each row, which sum to the launch's; padding behind the last row is its own."""

    places: torch.Tensor
    """(T,) int64, like `PagedBatch.slots`; of padding, any place that holds a key of the launch."""


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """One launch, all on the device: T tokens of R rows, one row after another."""

    ids: torch.Tensor
    """(T,) int32, the tokens."""

    positions: torch.Tensor
    """(T,) int32, their positions."""

    slots: torch.Tensor
    """(T,) int64, page * page_tokens + offset where keys and values go; -1 writes nothing."""

    page_table: torch.Tensor
    """(R, width) int32, the pages of each row."""

    kv_lens: torch.Tensor
    """(R,) int32, new tokens included; 0 for a padded row."""

    cu_q: torch.Tensor | None = None
    """(R + 1,) int32, where each row begins; None in decode, where T is R."""

    last: torch.Tensor | None = None
    """Tokens whose logits are wanted; None for all."""

    cold: ColdRows | None = None
    """Where the rows may be attended to by `PagedOps.cold_attention`."""


class PagedDecoder:
    """A model with its pages on one device.

    `activation` is the dtype of activations and KV, by default that of the precision's tensors
    which are not quantised. Nothing here waits for the device or depends on a length, so a decode
    launch can be captured in a graph.
    """

    def __init__(
        self,
        weights: PrecisionWeights,
        device: torch.device,
        ops: PagedOps,
        *,
        n_pages: int,
        max_context: int,
        page_tokens: int = PAGE_TOKENS,
        activation: torch.dtype | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        c = self.config = weights.config
        self.device, self.ops, self.max_context = device, ops, max_context
        self.activation = activation or activation_dtype(weights.precision)
        with torch.inference_mode():
            self.weights = load_weights(weights, device, self.activation, progress)
            self.kv = PagedKv(
                c.n_layers, n_pages, page_tokens, c.n_kv_heads, c.head_dim, self.activation, device
            )
            self.cos, self.sin = (
                torch.from_numpy(table).to(device) for table in cos_sin_tables(c, max_context)
            )

    def with_ops(self, ops: PagedOps) -> PagedDecoder:
        """The same weights and pages, computed by other operations."""
        other = copy.copy(self)
        other.ops = ops
        return other

    @torch.inference_mode()
    def forward(self, batch: PagedBatch) -> torch.Tensor:
        """Logits (wanted tokens, vocab) in the activations' dtype; keys and values are written."""
        ops, c, w = self.ops, self.config, self.weights
        eps = c.rms_eps
        x, normed = ops.embed_norm(batch.ids, w.embedding, w.layers[0].input_norm, eps)
        for index, layer in enumerate(w.layers):
            if index == 0:
                qkv = self._product(ops.qkv, normed, layer.qkv)
            else:
                qkv = self._product(ops.qkv, x, layer.qkv, norm=layer.input_norm)
            attended = self._attended(qkv, index, batch)
            x = self._product(ops.out_add, attended.flatten(1), layer.out, residual=x)
            wide = self._product(
                ops.gate_up_swiglu, x, layer.gate_up, norm=layer.post_norm, swiglu=True
            )
            x = self._product(ops.down_add, wide, layer.down, residual=x)
        if batch.last is not None:
            if not batch.last.numel():  # of this chunk no row is sampled
                return torch.empty((0, c.vocab_size), dtype=x.dtype, device=x.device)
            x = x.index_select(0, batch.last)
        logits: torch.Tensor = ops.head(x, w.head.matrix, w.head.bias, norm=w.final_norm, eps=eps)
        return logits

    def _attended(self, qkv: torch.Tensor, index: int, batch: PagedBatch) -> torch.Tensor:
        """Attention of layer `index` (tokens, n_heads, head_dim), its new keys and values written;
        in decode in one launch where an operation joins the two."""
        ops, c, layer = self.ops, self.config, self.weights.layers[index]
        k_cache, v_cache = self.kv.k[index], self.kv.v[index]
        table, lens, scale = batch.page_table, batch.kv_lens, c.head_dim**-0.5
        norms = {"q_norm": layer.q_norm, "k_norm": layer.k_norm, "eps": c.rms_eps}
        rotation = (qkv, self.cos, self.sin, batch.positions, batch.slots, k_cache, v_cache)
        attended: torch.Tensor
        if batch.cu_q is None and ops.rope_decode_attention is not None:
            attended = ops.rope_decode_attention(
                *rotation, table, lens, c.n_heads, scale, **norms,
                ahead=(layer.out.matrix, layer.gate_up.matrix),
            )  # fmt: skip
            return attended
        q = ops.rope_kv(*rotation, c.n_heads, **norms)
        if batch.cold is not None and ops.cold_attention is not None:
            attended = cold_rows_attended(ops.cold_attention, q, qkv, k_cache, batch.cold, scale)
        elif batch.cu_q is None:
            attended = ops.decode_attention(q, k_cache, v_cache, table, lens, scale)
        else:
            attended = ops.prefill_attention(q, k_cache, v_cache, table, batch.cu_q, lens, scale)
        return attended

    def _product(
        self,
        op: Callable[..., torch.Tensor],
        x: torch.Tensor,
        weight: Product,
        *,
        norm: torch.Tensor | None = None,
        swiglu: bool = False,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        matrix, eps = weight.matrix, self.config.rms_eps
        if takes_fp8_rows(matrix, x.shape[0]):
            rows = self.ops.quantise_rows(x, norm, eps)
            return op(rows, matrix, weight.bias, swiglu=swiglu, residual=residual)
        return op(x, matrix, weight.bias, norm=norm, eps=eps, swiglu=swiglu, residual=residual)


def cold_rows_attended(
    op: Implementation,
    q: torch.Tensor,
    qkv: torch.Tensor,
    k_cache: torch.Tensor,
    rows: ColdRows,
    scale: float,
) -> torch.Tensor:
    """Attention of cold rows, one after another, by `op` (`PagedOps.cold_attention`).

    Keys are taken from where they were just written, since they are rotated on the way there;
    values are in qkv (tokens, q_size + 2 * kv_size) as they are.
    """
    n_kv, size = k_cache.shape[2:]
    k = k_cache.flatten(0, 1).index_select(0, rows.places)
    v = qkv[:, -n_kv * size :].view(-1, n_kv, size)
    parts = [
        op(*each, scale)
        for each in zip(*(torch.split(x, list(rows.lengths)) for x in (q, k, v)), strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
