"""The `plain` level: standard operators of opset 15 only, so that any provider may take it whole.

Attention is in two parts: scores against the cached keys and against the new keys are two
products, concatenated (they are small), one softmax, then split again. So the cache is never
concatenated, and the graph returns the new K and V rows alone. Grouped heads: the queries of a
group are stacked over positions, (batch, kv_heads, group x chunk, head_dim), instead of expanding
K and V. Rotation x * cos + (x P) * sin with a constant signed permutation P needs no slicing and
serves both pairings.

With fixed sizes it keeps to what compilers of accelerators list, types included (CANN has no
Unsqueeze whose axes are an input, no ReduceMean of opset 17, no comparison of int64, no bias of
Gemm): all integers are int32, axes come from tables and Reshape, the causal mask is a table.

Inputs: `start` int32 (batch,): tokens in the cache; `past_key_L`, `past_value_L`
(batch, kv_heads, context, head_dim), whose rows beyond `start` must be finite. Outputs:
`new_key_L`, `new_value_L` (batch, kv_heads, chunk, head_dim).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from chipmark_models.config import ModelConfig
from chipmark_models.onnx_graphs.builder import GraphBuilder, WeightView
from chipmark_models.onnx_graphs.emitter import GraphShape, Level
from chipmark_models.onnx_graphs.sizes import GraphSizes
from chipmark_models.rope import cos_sin_tables
from chipmark_models.tensors import layer_prefix

_AXES_ARE_AN_INPUT = 18  # opset from which ReduceMean takes its axes so

# Added to masked scores: far below any score, and finite, so that 0 x value stays 0.
MASKED = {"float32": -1e30, "float16": -6e4}


def sigmoid_swiglu(builder: GraphBuilder, gate_up: str, n: int) -> str:
    """silu(gate) x up of gate_up (rows, 2 n), by operators that any opset has."""
    gate, up = builder.ops("Split", [gate_up, builder.constant([n, n])], 2, axis=1)
    silu = builder.op("Mul", [gate, builder.op("Sigmoid", [gate])])
    return builder.op("Mul", [silu, up])


def rotation_matrix(config: ModelConfig) -> np.ndarray:
    """P (head_dim, head_dim): x P swaps the members of each rotated pair and negates the first
    result, so that rotating is x * cos + (x P) * sin."""
    half = config.head_dim // 2
    pairs = np.arange(half)
    first, second = (2 * pairs, 2 * pairs + 1) if config.rope_interleaved else (pairs, pairs + half)
    matrix = np.zeros((config.head_dim, config.head_dim), np.float32)
    matrix[second, first] = -1.0
    matrix[first, second] = 1.0
    return matrix


def full_tables(config: ModelConfig, positions: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of every dimension of a head, float32 (positions, head_dim)."""
    cos, sin = cos_sin_tables(config, positions)
    if config.rope_interleaved:
        return np.repeat(cos, 2, axis=1), np.repeat(sin, 2, axis=1)
    return np.concatenate([cos, cos], axis=1), np.concatenate([sin, sin], axis=1)


@dataclass(slots=True)
class PlainEmitter:
    """Writes the standard operators; see the module's docstring."""

    config: ModelConfig
    shape: GraphShape
    builder: GraphBuilder
    level: Level = "plain"
    _sizes: GraphSizes = field(init=False)
    _shared: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sizes = GraphSizes(self.shape, self.builder)

    def begin(self) -> None:
        """Positions, rotary rows and masks, once for all layers."""
        b, c, s = self.builder, self.config, self.shape
        start = b.input("start", "int32", (s.dim("batch"),))
        self._sizes.read_tokens()
        for index in range(c.n_layers):
            for kind in ("key", "value"):
                cached = (s.dim("batch"), c.n_kv_heads, s.dim("context"), c.head_dim)
                b.input(f"past_{kind}_{index}", s.dtype, cached)
        self._sizes.read_context()
        self._rotary(start)
        self._masks(start)

    def _rotary(self, start: str) -> None:
        b, s = self.builder, self.shape
        column = b.op("Reshape", [start, b.constant([-1, 1])])
        positions = b.op("Add", [column, self._sizes.arange("chunk", "int32")])
        for name, array in zip(("cos", "sin"), full_tables(self.config, s.positions), strict=True):
            # An axis for the heads, so that the rows need no reshaping.
            table = b.table(f"rope.{name}", array[:, None].astype(s.dtype))
            self._shared[name] = b.op("Gather", [table, positions], axis=0)
        self._shared["rotation"] = b.constant(rotation_matrix(self.config), s.dtype)

    def _masks(self, start: str) -> None:
        b, c, s = self.builder, self.config, self.shape
        zero, masked = b.constant(0.0, s.dtype), b.constant(MASKED[s.dtype], s.dtype)
        column = b.op("Reshape", [start, b.constant([-1, 1, 1, 1])])
        held = b.op("Less", [self._sizes.arange("context", "int32"), column])
        self._shared["past_mask"] = b.op("Where", [held, zero, masked])
        if s.chunk == 1:
            return
        # One query row of every head in the group, in the order g x chunk + t.
        group = c.n_heads // c.n_kv_heads
        if s.chunk is not None:
            causal = np.triu(np.full((s.chunk, s.chunk), MASKED[s.dtype]), 1)
            mask = np.tile(causal, (group, 1))[None, None].astype(s.dtype)
            self._shared["new_mask"] = b.table("causal_mask", mask)
            return
        new = self._sizes.arange("chunk", "int32")
        seen = b.op("LessOrEqual", [new, b.op("Reshape", [new, b.constant([-1, 1])])])
        causal_rows = b.op("Where", [seen, zero, masked])
        self._shared["new_mask"] = b.op("Tile", [causal_rows, b.constant([group, 1])])

    def norm(self, x: str, weight: str) -> str:
        """x / sqrt(mean(x^2) + eps) * weight, in float32 inside."""
        b, half = self.builder, self.shape.dtype == "float16"
        wide = b.op("Cast", [x], to=1) if half else x
        square = b.op("Pow", [wide, b.constant(2.0, "float32")])
        if b.opset < _AXES_ARE_AN_INPUT:
            mean = b.op("ReduceMean", [square], axes=[-1], keepdims=1)
        else:
            mean = b.op("ReduceMean", [square, b.constant([-1])], keepdims=1)
        eps = b.constant(self.config.rms_eps, "float32")
        root = b.op("Sqrt", [b.op("Add", [mean, eps])])
        y = b.op("Div", [wide, root])
        if half:
            y = b.op("Cast", [y], to=10)
        return b.op("Mul", [y, weight])

    def add_norm(self, residual: str, delta: str, weight: str) -> tuple[str, str]:
        """(residual + delta, its norm)."""
        total = self.builder.op("Add", [residual, delta])
        return total, self.norm(total, weight)

    def attention(self, layer: int, qkv: str) -> str:
        """Two-part attention over the cache and the new rows."""
        b, c, s = self.builder, self.config, self.shape
        n_rotated = c.n_heads + c.n_kv_heads
        packed = b.op(
            "Reshape", [qkv, self._sizes.of("batch", "chunk", n_rotated + c.n_kv_heads, c.head_dim)]
        )
        qk, v = b.ops("Split", [packed, b.constant([n_rotated, c.n_kv_heads])], 2, axis=2)
        if c.qk_norm:
            qk = self.norm(qk, self._head_norms(layer))
        swapped = b.op("MatMul", [qk, self._shared["rotation"]])
        turned = [
            b.op("Mul", [pair, self._shared[name]])
            for pair, name in ((qk, "cos"), (swapped, "sin"))
        ]
        qk = b.op("Add", turned)
        q, k = b.ops("Split", [qk, b.constant([c.n_heads, c.n_kv_heads])], 2, axis=2)
        q = b.op("Mul", [q, b.constant(c.head_dim**-0.5, s.dtype)])
        group = c.n_heads // c.n_kv_heads
        q = b.op("Reshape", [q, self._sizes.of("batch", "chunk", c.n_kv_heads, group * c.head_dim)])
        q = self._stack_group(q, group)
        new_k = self._heads_first(k, f"new_key_{layer}")
        new_v = self._heads_first(v, f"new_value_{layer}")
        rows = (s.dim("batch"), c.n_kv_heads, s.dim("chunk"), c.head_dim)
        b.output(new_k, s.dtype, rows)
        b.output(new_v, s.dtype, rows)

        past_t = b.op("Transpose", [f"past_key_{layer}"], perm=[0, 1, 3, 2])
        past = b.op("Add", [b.op("MatMul", [q, past_t]), self._shared["past_mask"]])
        new = b.op("MatMul", [q, b.op("Transpose", [new_k], perm=[0, 1, 3, 2])])
        if s.chunk != 1:
            new = b.op("Add", [new, self._shared["new_mask"]])
        probabilities = b.op("Softmax", [b.op("Concat", [past, new], axis=-1)], axis=-1)
        p_past, p_new = b.ops(
            "Split", [probabilities, self._sizes.of("context", "chunk")], 2, axis=-1
        )
        y = b.op(
            "Add",
            [b.op("MatMul", [p_past, f"past_value_{layer}"]), b.op("MatMul", [p_new, new_v])],
        )
        return self._unstack_group(y, group)

    def _head_norms(self, layer: int) -> str:
        c = self.config
        prefix = f"{layer_prefix(layer)}self_attn."
        view = WeightView(
            f"{prefix}qk_norm.weight",
            (f"{prefix}q_norm.weight", f"{prefix}k_norm.weight"),
            (c.n_heads + c.n_kv_heads, c.head_dim),
            self.shape.dtype,
            repeats=(c.n_heads, c.n_kv_heads),
        )
        return self.builder.weight(view)

    def _stack_group(self, q: str, group: int) -> str:
        """(batch, chunk, kv_heads, group x head_dim) to (batch, kv_heads, group x chunk, ...)."""
        b, c = self.builder, self.config
        if self.shape.chunk == 1:
            return b.op("Reshape", [q, self._sizes.of("batch", c.n_kv_heads, group, c.head_dim)])
        # Five axes are needed; batch and chunk are folded around the transposition.
        five = self._sizes.of("batch", "chunk", c.n_kv_heads, group, c.head_dim)
        q = b.op("Transpose", [b.op("Reshape", [q, five])], perm=[0, 2, 3, 1, 4])
        return b.op("Reshape", [q, self._rows_of_group(group)])

    def _rows_of_group(self, group: int) -> str:
        c, s = self.config, self.shape
        if s.chunk is not None:
            return self._sizes.of("batch", c.n_kv_heads, group * s.chunk, c.head_dim)
        if s.batch is not None:
            return self._sizes.of("batch", c.n_kv_heads, -1, c.head_dim)
        if "rows_of_group" not in self._shared:
            b = self.builder
            n_rows = b.op("Mul", [self._sizes.free("chunk"), b.constant([group])])
            parts = [self._sizes.free("batch"), b.constant([c.n_kv_heads]), n_rows]
            self._shared["rows_of_group"] = b.op(
                "Concat", [*parts, b.constant([c.head_dim])], axis=0
            )
        return self._shared["rows_of_group"]

    def _unstack_group(self, y: str, group: int) -> str:
        """(batch, kv_heads, group x chunk, head_dim) to (batch x chunk, heads x head_dim)."""
        b, c = self.builder, self.config
        if self.shape.chunk != 1:
            five = self._sizes.of("batch", c.n_kv_heads, group, "chunk", c.head_dim)
            y = b.op("Transpose", [b.op("Reshape", [y, five])], perm=[0, 3, 1, 2, 4])
        return b.op("Reshape", [y, b.constant([-1, c.q_size])])

    def _heads_first(self, x: str, out: str) -> str:
        """(batch, chunk, kv_heads, head_dim) to (batch, kv_heads, chunk, head_dim)."""
        return self.builder.op("Transpose", [x], out=out, perm=[0, 2, 1, 3])

    def swiglu(self, gate_up: str) -> str:
        """silu(gate) * up."""
        return sigmoid_swiglu(self.builder, gate_up, self.config.intermediate_size)
