"""The decode step in the recipe of gpt-fast: what a good user of torch gets without kernels.

Plain PyTorch over keys and values that lie in one static block a row, attention by SDPA with a
mask over the whole block, compiled as one graph (`torch.compile(fullgraph=True)`) with its tiles
searched by coordinate descent, and captured by the very graph that captures ours. Attention is left
to the compiler (SDPA's math path), as the recipe has it. Weights, ids and cached values are ours.
https://github.com/pytorch-labs/gpt-fast (generate.py, model.py)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from chipmark.errors import UnknownNameError, UsageError
from chipmark.kernel_bench.whole_step import StepModel, WholeStep
from chipmark_models.decoder.paged.quantised import QuantisedMatrix
from chipmark_models.decoder.paged.weights import PagedLayer, Product

PEERS: Mapping[str, Mapping[str, Any] | None] = MappingProxyType(
    {
        "gpt-fast": {"coordinate_descent_tuning": True},
        "gpt-fast-max-autotune": {"coordinate_descent_tuning": True, "max_autotune": True},
        "gpt-fast-eager": None,
    }
)
"""Options of the compiler by peer: those of `reduce-overhead` and of `max-autotune` but for the
CUDA graph, which is ours; None is not compiled."""


@dataclass(slots=True)
class _Static:
    """The step's memory: what it reads is updated in place, as a graph needs."""

    ids: torch.Tensor
    """int32 (rows,)."""

    positions: torch.Tensor
    """int32 (rows,)."""

    keys: list[torch.Tensor]
    """(rows, n_kv_heads, context, head_dim) a layer."""

    values: list[torch.Tensor]


class PlainDecoder:
    """The model in plain PyTorch, a token a row."""

    def __init__(self, model: StepModel, static: _Static, context: int) -> None:
        decoder = model.decoder
        if isinstance(decoder.weights.layers[0].qkv.matrix, QuantisedMatrix):
            raise UsageError("the peer has plain weights only", "compare it at bf16")
        self._c, self._w, self._static = decoder.config, decoder.weights, static
        self._cos, self._sin = decoder.cos, decoder.sin
        rows = static.ids.shape[0]
        self._rows = torch.arange(rows, device=model.device)
        self._places = torch.arange(context, device=model.device)

    def step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (rows, vocab) and ids int32 (rows,); keys and values are written."""
        c, w = self._c, self._w
        at = self._static.positions.long()
        seen = (self._places[None, :] <= at[:, None])[:, None, None]
        cos, sin = self._cos[at][:, None], self._sin[at][:, None]
        x = functional.embedding(self._static.ids.long(), w.embedding)
        for index, layer in enumerate(w.layers):
            attended = self._attended(x, layer, index, at, seen, cos, sin)
            x = x + _linear(attended, layer.out)
            h = self._norm(x, layer.post_norm)
            gate, up = _linear(h, layer.gate_up).chunk(2, -1)
            x = x + _linear(functional.silu(gate) * up, layer.down)
        logits = _linear(self._norm(x, w.final_norm), w.head)
        assert logits.shape[-1] == c.vocab_size
        return logits, logits.argmax(-1).to(torch.int32)

    def _attended(
        self,
        x: torch.Tensor,
        layer: PagedLayer,
        index: int,
        at: torch.Tensor,
        seen: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
    ) -> torch.Tensor:
        c, rows = self._c, x.shape[0]
        qkv = _linear(self._norm(x, layer.input_norm), layer.qkv)
        heads = qkv.view(rows, c.n_heads + 2 * c.n_kv_heads, c.head_dim)
        q, k, v = torch.split(heads, [c.n_heads, c.n_kv_heads, c.n_kv_heads], 1)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = self._norm(q, layer.q_norm), self._norm(k, layer.k_norm)
        q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
        keys, values = self._static.keys[index], self._static.values[index]
        keys[self._rows, :, at] = k
        values[self._rows, :, at] = v
        y = functional.scaled_dot_product_attention(
            q[:, :, None], keys, values, attn_mask=seen, enable_gqa=True
        )
        return y.flatten(1)

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self._c.rms_eps)
        return normed.to(x.dtype) * weight


def _linear(x: torch.Tensor, weight: Product) -> torch.Tensor:
    assert isinstance(weight.matrix, torch.Tensor)
    return functional.linear(x, weight.matrix, weight.bias)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.float().chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


def peer_step(model: StepModel, rows: int, context: int, name: str = "gpt-fast") -> WholeStep:
    """The step of (rows, context) by a peer of PEERS, over a copy of the pages' keys and values as
    they are now; it reads the ids and lengths of `model.inputs(rows, context)`.

    Compiling takes a minute or two for a large model. Raises UnknownNameError, UsageError for
    quantised weights, and what the compiler raises.
    """
    if name not in PEERS:
        raise UnknownNameError("peer", name, PEERS)
    model.set_lengths(rows, context, np.full(rows, context, np.int32))
    batch = model.inputs(rows, context).batch(rows)
    static = _static(model, rows, context)
    decoder = PlainDecoder(model, static, context)
    options = PEERS[name]
    call: Callable[[], tuple[torch.Tensor, ...]] = decoder.step
    if options is not None:
        # Functions of one source line share a cache of a few shapes, and after those run eager.
        torch._dynamo.reset()
        on_card = batch.ids.device.type == "cuda"
        call = torch.compile(
            decoder.step, fullgraph=True, dynamic=False,
            options=dict(options) | {"triton.cudagraphs": False} if on_card else {},
        )  # fmt: skip

    def eager() -> tuple[torch.Tensor, ...]:
        with sdpa_kernel([SDPBackend.MATH]):
            return call()

    with torch.inference_mode():
        play = model.stream.capture(eager, kept=True)
    return WholeStep(name, rows, context, play, eager, model.stream)


@torch.inference_mode()
def _static(model: StepModel, rows: int, context: int) -> _Static:
    batch = model.inputs(rows, context).batch(rows)
    kv = model.decoder.kv
    places = torch.arange(context, device=model.device)
    pages = batch.page_table.long()[:, places // kv.page_tokens]
    offset = (places % kv.page_tokens).expand(rows, -1)

    def block(cache: torch.Tensor) -> torch.Tensor:
        return cache[pages, offset].transpose(1, 2).contiguous()

    return _Static(batch.ids, batch.positions, [*map(block, kv.k)], [*map(block, kv.v)])
