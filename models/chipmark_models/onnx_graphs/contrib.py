"""The `contrib` level: fused operators of com.microsoft, which the CPU provider has.

GroupQueryAttention takes packed projections, rotates, appends the new rows in place (past and
present are bound to one buffer) and reads only the valid part of every sequence.

Inputs: `past_length` int32 (batch,): index of the last valid position after this step (total
length - 1); `total_length` int32 (): the longest total length of the batch; `past_key_L`,
`past_value_L` (batch, kv_heads, context, head_dim). Outputs `present_key_L`, `present_value_L`,
same shape, same memory. Several new tokens on top of a cache: one sequence a launch.
"""

from __future__ import annotations

from dataclasses import dataclass

from chipmark_models.config import ModelConfig
from chipmark_models.onnx_graphs.builder import GraphBuilder, WeightView
from chipmark_models.onnx_graphs.emitter import GraphShape, Level
from chipmark_models.rope import cos_sin_tables
from chipmark_models.tensors import layer_prefix

_DOMAIN = "com.microsoft"


@dataclass(slots=True)
class ContribEmitter:
    """Writes the fused operators; see the module's docstring."""

    config: ModelConfig
    shape: GraphShape
    builder: GraphBuilder
    level: Level = "contrib"

    def begin(self) -> None:
        """Lengths, caches and the rotary tables."""
        b, c, s = self.builder, self.config, self.shape
        b.input("past_length", "int32", (s.dim("batch"),))
        b.input("total_length", "int32", ())
        for layer in range(c.n_layers):
            for kind in ("key", "value"):
                cached = (s.dim("batch"), c.n_kv_heads, s.dim("context"), c.head_dim)
                b.input(f"past_{kind}_{layer}", s.dtype, cached)
                b.output(f"present_{kind}_{layer}", s.dtype, cached)
        cos, sin = cos_sin_tables(c, s.positions)
        b.table("rope.cos", cos.astype(s.dtype))
        b.table("rope.sin", sin.astype(s.dtype))

    def norm(self, x: str, weight: str) -> str:
        """RMS norm as one node."""
        return self.builder.op(
            "SimplifiedLayerNormalization",
            [x, weight],
            axis=-1,
            epsilon=self.config.rms_eps,
            stash_type=1,
        )

    def add_norm(self, residual: str, delta: str, weight: str) -> tuple[str, str]:
        """The sum and its norm as one node."""
        y, total = self.builder.ops(
            "SkipSimplifiedLayerNormalization",
            [residual, delta, weight],
            4,
            domain=_DOMAIN,
            outs=("", "-", "-", ""),
            epsilon=self.config.rms_eps,
        )[::3]
        return total, y

    def attention(self, layer: int, qkv: str) -> str:
        """GroupQueryAttention on packed projections; split for norms of heads."""
        b, c = self.builder, self.config
        if c.qk_norm:
            query, key, value = self._normed_heads(layer, qkv)
        else:
            width = c.q_size + 2 * c.kv_size
            query, key, value = b.op("Reshape", [qkv, self._rows_of(width)]), "", ""
        inputs = [
            query,
            key,
            value,
            f"past_key_{layer}",
            f"past_value_{layer}",
            "past_length",
            "total_length",
            "rope.cos",
            "rope.sin",
        ]
        y = b.ops(
            "GroupQueryAttention",
            inputs,
            3,
            domain=_DOMAIN,
            outs=("", f"present_key_{layer}", f"present_value_{layer}"),
            num_heads=c.n_heads,
            kv_num_heads=c.n_kv_heads,
            scale=c.head_dim**-0.5,
            do_rotary=1,
            rotary_interleaved=int(c.rope_interleaved),
        )[0]
        return b.op("Reshape", [y, b.constant([-1, c.q_size])])

    def _rows_of(self, width: int) -> str:
        """The shape (batch, chunk, width); copies sizes from `tokens` where both are free."""
        b, s = self.builder, self.shape
        if s.batch is None and s.chunk is None:
            sizes = b.op("Shape", ["tokens"])
            return b.op("Concat", [sizes, b.constant([width])], axis=0)
        return b.constant([-1 if s.batch is None else s.batch, s.chunk or -1, width])

    def _normed_heads(self, layer: int, qkv: str) -> list[str]:
        b, c = self.builder, self.config
        parts = b.ops("Split", [qkv, b.constant([c.q_size, c.kv_size, c.kv_size])], 3, axis=1)
        prefix = f"{layer_prefix(layer)}self_attn."
        for index, name in enumerate(("q_norm.weight", "k_norm.weight")):
            view = WeightView(
                f"{prefix}{name}", (f"{prefix}{name}",), (c.head_dim,), self.shape.dtype
            )
            heads = b.op("Reshape", [parts[index], b.constant([-1, c.head_dim])])
            parts[index] = self.norm(heads, b.weight(view))
        widths = (c.q_size, c.kv_size, c.kv_size)
        return [
            b.op("Reshape", [part, self._rows_of(width)])
            for part, width in zip(parts, widths, strict=True)
        ]

    def swiglu(self, gate_up: str) -> str:
        """silu(gate) * up; QuickGelu with alpha 1 is silu."""
        b = self.builder
        n = self.config.intermediate_size
        gate, up = b.ops("Split", [gate_up, b.constant([n, n])], 2, axis=1)
        silu = b.op("QuickGelu", [gate], domain=_DOMAIN, alpha=1.0)
        return b.op("Mul", [silu, up])
