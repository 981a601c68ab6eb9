"""The `standard` level: the operators for language models of ONNX opset 23 and 24.

TensorScatter writes the new rows of K and V into the cache, whose input and output are bound to
one memory, so that nothing is copied; Attention reads the cache up to the tokens that are in it.
RotaryEmbedding and RMSNormalization are one node each. All of it is ai.onnx: a provider needs no
operator of a vendor, but a runtime that knows opset 24.

What each query may see is given as a mask, not by `is_causal`: whether that one counts from the
first row of the cache or from the last valid one was settled after runtimes had it both ways.

Inputs: `start` int64 (batch,): tokens in the cache before this step; `past_key_L`, `past_value_L`
(batch, kv_heads, context, head_dim), with start + chunk <= context and finite rows. Outputs
`present_key_L`, `present_value_L`, same shape, same memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chipmark_models.config import ModelConfig
from chipmark_models.onnx_graphs.builder import GraphBuilder, WeightView
from chipmark_models.onnx_graphs.emitter import GraphShape, Level
from chipmark_models.onnx_graphs.plain import MASKED, sigmoid_swiglu
from chipmark_models.onnx_graphs.protobuf import DATA_TYPES
from chipmark_models.onnx_graphs.sizes import GraphSizes
from chipmark_models.rope import cos_sin_tables
from chipmark_models.tensors import layer_prefix

STANDARD_OPSET = 24
"""The first with TensorScatter, and with Attention over a cache that others write."""

_FLOAT = DATA_TYPES["float32"]
"""What norms and the softmax are computed in, whatever the graph's own type."""


@dataclass(slots=True)
class StandardEmitter:
    """Writes the operators of opset 24; see the module's docstring."""

    config: ModelConfig
    shape: GraphShape
    builder: GraphBuilder
    level: Level = "standard"
    _sizes: GraphSizes = field(init=False)
    _positions: str = ""
    _mask: str = ""
    _valid: str = ""

    def __post_init__(self) -> None:
        self._sizes = GraphSizes(self.shape, self.builder)

    def begin(self) -> None:
        """Caches, positions of the new tokens, and what they may see."""
        b, c, s = self.builder, self.config, self.shape
        start = b.input("start", "int64", (s.dim("batch"),))
        self._sizes.read_tokens()
        for layer in range(c.n_layers):
            for kind in ("key", "value"):
                cached = (s.dim("batch"), c.n_kv_heads, s.dim("context"), c.head_dim)
                b.input(f"past_{kind}_{layer}", s.dtype, cached)
                b.output(f"present_{kind}_{layer}", s.dtype, cached)
        self._sizes.read_context()
        cos, sin = cos_sin_tables(c, s.positions)
        b.table("rope.cos", cos.astype(s.dtype))
        b.table("rope.sin", sin.astype(s.dtype))
        column = b.op("Unsqueeze", [start, b.constant([1])])
        self._positions = b.op("Add", [column, self._sizes.arange("chunk")])
        chunk = self._sizes.free("chunk") if s.chunk is None else b.constant([s.chunk])
        self._valid = b.op("Add", [start, chunk])
        if s.chunk != 1:  # a single new token sees all valid rows
            self._mask = self._visible_rows()

    def _visible_rows(self) -> str:
        """(batch, 1, chunk, context): 0 up to a query's own position, else far below any score."""
        b, s = self.builder, self.shape
        rows = b.op("Unsqueeze", [self._positions, b.constant([1, 3])])
        seen = b.op("LessOrEqual", [self._sizes.arange("context"), rows])
        zero, masked = b.constant(0.0, s.dtype), b.constant(MASKED[s.dtype], s.dtype)
        return b.op("Where", [seen, zero, masked])

    def norm(self, x: str, weight: str) -> str:
        """RMS norm as one node, in float32 inside."""
        return self.builder.op(
            "RMSNormalization", [x, weight], axis=-1, epsilon=self.config.rms_eps, stash_type=_FLOAT
        )

    def add_norm(self, residual: str, delta: str, weight: str) -> tuple[str, str]:
        """(residual + delta, its norm)."""
        total = self.builder.op("Add", [residual, delta])
        return total, self.norm(total, weight)

    def attention(self, layer: int, qkv: str) -> str:
        """Rotate, write the rows, attend to the cache."""
        b, c = self.builder, self.config
        n_heads = c.n_heads + 2 * c.n_kv_heads
        packed = b.op("Reshape", [qkv, self._sizes.of("batch", "chunk", n_heads, c.head_dim)])
        widths = b.constant([c.n_heads, c.n_kv_heads, c.n_kv_heads])
        query, key, value = b.ops("Split", [packed, widths], 3, axis=2)
        if c.qk_norm:
            query = self._head_norm(layer, "q_norm", query)
            key = self._head_norm(layer, "k_norm", key)
        query, key = self._rotated(query), self._rotated(key)
        cached = [
            b.op(
                "TensorScatter",
                [f"past_{kind}_{layer}", rows, "start"],
                out=f"present_{kind}_{layer}",
                axis=2,
            )
            for kind, rows in (("key", key), ("value", self._swapped(value)))
        ]
        y = b.op(
            "Attention",
            [query, *cached, self._mask, "", "", self._valid],
            scale=c.head_dim**-0.5,
            softmax_precision=_FLOAT,
        )
        return b.op("Reshape", [self._swapped(y), b.constant([-1, c.q_size])])

    def _head_norm(self, layer: int, name: str, heads: str) -> str:
        tensor = f"{layer_prefix(layer)}self_attn.{name}.weight"
        view = WeightView(tensor, (tensor,), (self.config.head_dim,), self.shape.dtype)
        return self.norm(heads, self.builder.weight(view))

    def _rotated(self, heads: str) -> str:
        return self.builder.op(
            "RotaryEmbedding",
            [self._swapped(heads), "rope.cos", "rope.sin", self._positions],
            interleaved=int(self.config.rope_interleaved),
        )

    def _swapped(self, x: str) -> str:
        """Between (batch, chunk, heads, head_dim) and (batch, heads, chunk, head_dim)."""
        return self.builder.op("Transpose", [x], perm=[0, 2, 1, 3])

    def swiglu(self, gate_up: str) -> str:
        """silu(gate) * up."""
        return sigmoid_swiglu(self.builder, gate_up, self.config.intermediate_size)
