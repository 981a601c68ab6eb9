"""The decoder: one launch of ragged rows over cached keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from chipmark_models.decoder.reading import DTYPES
from chipmark_models.decoder.slots.kv import SlotKv, Span
from chipmark_models.decoder.slots.linear import ROUNDS_INPUT
from chipmark_models.decoder.slots.ops import TABLE, SlotOps
from chipmark_models.decoder.slots.weights import DecoderWeights, WeightLoader
from chipmark_models.rope import cos_sin_tables
from chipmark_models.weights.prepared import PrecisionWeights

Ids = npt.NDArray[np.integer]


class Decoder:
    """A model with its KV on one device; `forward` computes one launch.

    Activations are float32 on a CPU and the weights' type elsewhere. Everything that does not
    depend on the tokens (rotary tables, KV) is made once, here.
    """

    def __init__(
        self,
        weights: PrecisionWeights,
        device: torch.device,
        *,
        n_slots: int,
        max_context: int,
        ops: SlotOps | None = None,
    ) -> None:
        self.config = weights.config
        self.device = device
        self.dtype = DTYPES[weights.precision]
        self.activation = torch.float32 if device.type == "cpu" else self.dtype
        self.max_context = max_context
        self.ops = ops or TABLE.select(TABLE.resolve(None, "torch"))
        with torch.inference_mode():
            self.weights: DecoderWeights = WeightLoader(weights, device, self.activation).load()
            c = self.config
            self.kv = SlotKv(
                c.n_layers, n_slots, c.n_kv_heads, max_context, c.head_dim, self.dtype, device
            )
            cos, sin = cos_sin_tables(c, max_context)
            self._cos = self._table(np.concatenate((cos, cos), axis=1))
            self._sin = self._table(np.concatenate((-sin, sin), axis=1))

    def _table(self, array: npt.NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, self.activation).unsqueeze(1)

    @property
    def rounds_activations(self) -> bool:
        """Whether some product on this CPU rounds its input to the weights' type."""
        plans = self.weights.plans.values()
        return self.dtype != torch.float32 and any(plan.calls & ROUNDS_INPUT for plan in plans)

    @torch.inference_mode()
    def forward(self, tokens: Ids, spans: Sequence[Span], sampled: Sequence[int]) -> torch.Tensor:
        """Compute one launch and return logits (len(sampled), vocab), float32 or the activations'.

        tokens: ids of all rows, one row after another. spans: where each row's tokens lie and go.
        sampled: indices of rows whose last token's logits are wanted. Rows of one token each take
        the decode path. A row must not exceed `max_context`, nor share its slot with another.
        """
        ops, c = self.ops, self.config
        ids = torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.int64)).to(self.device)
        cos, sin = self._rotation(spans)
        decode = all(span.length == 1 for span in spans)
        masks = [] if decode else [self._mask(span) for span in spans]
        x = ops.embed(self.weights.embedding, ids, self.activation)
        n_rotated = c.n_heads + c.n_kv_heads
        for kv_cache, layer in zip(self.kv.layers, self.weights.layers, strict=True):
            normed = ops.rms_norm(x, layer.input_norm, c.rms_eps)
            heads = ops.qkv(normed, layer.qkv).view(len(tokens), -1, c.head_dim)
            rotated = heads.narrow(1, 0, n_rotated)
            ops.qk_norm_rope(rotated, c.n_heads, layer.q_norm, layer.k_norm, c.rms_eps, cos, sin)
            queries = heads.narrow(1, 0, c.n_heads)
            ops.kv_write(kv_cache, heads.narrow(1, c.n_heads, 2 * c.n_kv_heads), spans)
            if decode:
                attended = ops.decode_attention(queries, kv_cache, spans)
            else:
                attended = ops.prefill_attention(queries, kv_cache, spans, masks)
            x = ops.out_add(x, attended, layer.out)
            normed = ops.rms_norm(x, layer.post_norm, c.rms_eps)
            x = ops.down_add(x, ops.gate_up_swiglu(normed, layer.gate_up), layer.down)
        return self._head(x, [spans[i].first + spans[i].length - 1 for i in sampled])

    def _head(self, x: torch.Tensor, last: list[int]) -> torch.Tensor:
        if not last:
            return x.new_empty((0, self.config.vocab_size))
        rows = x if len(last) == x.shape[0] else x[torch.tensor(last, device=x.device)]
        normed = self.ops.rms_norm(rows, self.weights.final_norm, self.config.rms_eps)
        logits: torch.Tensor = self.ops.head(normed, self.weights.head)
        return logits

    def _rotation(self, spans: Sequence[Span]) -> tuple[torch.Tensor, torch.Tensor]:
        if len(spans) == 1:
            at = slice(spans[0].start, spans[0].end)
            return self._cos[at], self._sin[at]
        positions = np.concatenate([np.arange(s.start, s.end) for s in spans])
        index = torch.from_numpy(positions).to(self.device)
        return self._cos[index], self._sin[index]

    def _mask(self, span: Span) -> torch.Tensor | None:
        """Additive mask (length, end) of a row that continues a cached prefix; None without one."""
        if span.start == 0 or span.length == 1:
            return None
        hidden = torch.full(
            (span.length, span.end), float("-inf"), dtype=self.activation, device=self.device
        )
        return hidden.triu_(span.start + 1)
