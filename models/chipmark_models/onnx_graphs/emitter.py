"""The walk over a decoder's layers, and what an emitter of one graph level has to provide.

A level decides by which operators the same arithmetic is written down: `plain` by standard ONNX
of 2021 only, `standard` by the operators for language models that ONNX has had since, `contrib` by
the fused operators of com.microsoft. The walk is theirs in common, so that a level cannot differ
in the model it computes.

Shapes: hidden states are (batch x chunk, hidden), so that every linear layer is one Gemm. Graph
inputs `tokens` int32 (batch, chunk), `rows` int32 (n_rows,): positions of the flattened batch
whose logits are wanted; outputs `logits` float32 (n_rows, vocab). The rest is the level's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from chipmark_models.config import ModelConfig
from chipmark_models.onnx_graphs.builder import GraphBuilder, WeightView
from chipmark_models.onnx_graphs.protobuf import Dim
from chipmark_models.onnx_graphs.quantised_linear import QuantisedForm, quantised_product
from chipmark_models.tensors import EMBEDDING, FINAL_NORM, HEAD, layer_prefix

Level = Literal["plain", "standard", "contrib"]
LEVELS: tuple[Level, ...] = ("plain", "standard", "contrib")
IN_PLACE: frozenset[Level] = frozenset({"standard", "contrib"})
"""Levels whose graph writes the new rows into the cache itself: `present_*` and `past_*` are one
memory. The others hand the rows out, and whoever runs the graph stores them."""


@dataclass(frozen=True, slots=True)
class GraphShape:
    """Sizes of one graph; None is a free dimension.

    batch: sequences. chunk: new tokens of each. context: rows of the cache that are bound.
    n_rows: rows whose logits are computed. positions: rows of the rotary tables (the longest
    sequence). `linear_weights` "out_in" writes Gemm with transB on (out, in) weights as they are
    stored, "in_out" MatMul on transposed copies. `quantised`: how the matrices that a quantised
    precision stores as codes are written; None where all are values.
    """

    batch: int | None
    chunk: int | None
    context: int | None
    n_rows: int | None
    positions: int
    dtype: Literal["float32", "float16"] = "float32"
    linear_weights: Literal["out_in", "in_out"] = "out_in"
    quantised: QuantisedForm | None = None

    def dim(self, name: Literal["batch", "chunk", "context", "n_rows"]) -> Dim:
        """The size, or the name as a free dimension."""
        size: int | None = getattr(self, name)
        return name if size is None else size


class Emitter(Protocol):
    """Operators of one graph level. Hidden states are (batch x chunk, hidden)."""

    level: Level

    def begin(self) -> None:
        """Declare the level's own inputs and what all layers share (masks, rotary rows)."""

    def norm(self, x: str, weight: str) -> str:
        """RMS norm over the last axis."""

    def add_norm(self, residual: str, delta: str, weight: str) -> tuple[str, str]:
        """(residual + delta, its RMS norm)."""

    def attention(self, layer: int, qkv: str) -> str:
        """From packed projections (batch x chunk, (heads + 2 kv_heads) x head_dim) to the heads'
        output (batch x chunk, heads x head_dim); declares cache inputs and outputs."""

    def swiglu(self, gate_up: str) -> str:
        """silu(first half) x second half along the last axis."""


@dataclass(slots=True)
class LayerWeights:
    """Hands out weights as initializers, and writes linear layers over them."""

    config: ModelConfig
    shape: GraphShape
    builder: GraphBuilder

    def vector(self, name: str, size: int) -> str:
        """A norm weight or a bias."""
        return self.builder.weight(WeightView(name, (name,), (size,), self.shape.dtype))

    def linear(
        self, x: str, name: str, modules: tuple[str, ...], sizes: tuple[int, ...], has_bias: bool
    ) -> str:
        """x times the stacked weights of `modules` (output widths `sizes`), plus their biases.

        Stacked tensors lie side by side in a prepared file, so that stacking copies nothing.
        """
        n_out = sum(sizes)
        n_in = self._width(modules[0])
        parts = tuple(f"{module}.weight" for module in modules)
        bias = ""
        if has_bias:
            biases = tuple(f"{module}.bias" for module in modules)
            bias = self.builder.weight(
                WeightView(f"{name}.bias", biases, (n_out,), self.shape.dtype)
            )
        form = self.shape.quantised
        if form is not None and form.takes(n_in):
            y = quantised_product(self.builder, form, x, name, parts, (n_out, n_in))
            return self.builder.op("Add", [y, bias]) if bias else y
        transposed = self.shape.linear_weights == "in_out"
        view = WeightView(
            f"{name}.weight",
            parts,
            (n_in, n_out) if transposed else (n_out, n_in),
            self.shape.dtype,
            transposed,
        )
        inputs = [x, self.builder.weight(view)]
        # A graph of fixed sizes is for compilers, of which not all take Gemm's third input.
        inside = bool(bias) and not transposed and self.shape.chunk is None
        if transposed:
            y = self.builder.op("MatMul", inputs)
        else:
            y = self.builder.op("Gemm", [*inputs, bias] if inside else inputs, transB=1)
        return self.builder.op("Add", [y, bias]) if bias and not inside else y

    def _width(self, module: str) -> int:
        if module.endswith("o_proj"):
            return self.config.q_size
        if module.endswith("down_proj"):
            return self.config.intermediate_size
        return self.config.hidden_size


def write_decoder(
    config: ModelConfig, shape: GraphShape, builder: GraphBuilder, emitter: Emitter
) -> None:
    """Write the whole decoder with one emitter into `builder`."""
    weights = LayerWeights(config, shape, builder)
    tokens = builder.input("tokens", "int32", (shape.dim("batch"), shape.dim("chunk")))
    rows = builder.input("rows", "int32", (shape.dim("n_rows"),))
    emitter.begin()
    embedding = WeightView(
        EMBEDDING, (EMBEDDING,), (config.vocab_size, config.hidden_size), shape.dtype
    )
    flat = builder.op("Reshape", [tokens, builder.constant([-1])])
    residual = builder.op("Gather", [builder.weight(embedding), flat], axis=0)
    delta = ""
    for layer in range(config.n_layers):
        prefix = layer_prefix(layer)
        weight = weights.vector(f"{prefix}input_layernorm.weight", config.hidden_size)
        if delta:
            residual, x = emitter.add_norm(residual, delta, weight)
        else:
            x = emitter.norm(residual, weight)
        qkv = weights.linear(
            x,
            f"{prefix}self_attn.qkv_proj",
            tuple(f"{prefix}self_attn.{name}_proj" for name in "qkv"),
            (config.q_size, config.kv_size, config.kv_size),
            config.qkv_bias,
        )
        heads = emitter.attention(layer, qkv)
        delta = weights.linear(
            heads,
            f"{prefix}self_attn.o_proj",
            (f"{prefix}self_attn.o_proj",),
            (config.hidden_size,),
            config.attn_out_bias,
        )
        weight = weights.vector(f"{prefix}post_attention_layernorm.weight", config.hidden_size)
        residual, x = emitter.add_norm(residual, delta, weight)
        gate_up = weights.linear(
            x,
            f"{prefix}mlp.gate_up_proj",
            (f"{prefix}mlp.gate_proj", f"{prefix}mlp.up_proj"),
            (config.intermediate_size, config.intermediate_size),
            config.mlp_bias,
        )
        delta = weights.linear(
            emitter.swiglu(gate_up),
            f"{prefix}mlp.down_proj",
            (f"{prefix}mlp.down_proj",),
            (config.hidden_size,),
            config.mlp_bias,
        )
    # Only the sampled rows go through the last norm and the head.
    residual = builder.op("Gather", [residual, rows], axis=0)
    delta = builder.op("Gather", [delta, rows], axis=0)
    _, x = emitter.add_norm(residual, delta, weights.vector(FINAL_NORM, config.hidden_size))
    head = embedding
    if not config.tied_embeddings:
        head = WeightView(HEAD, (HEAD,), embedding.shape, shape.dtype)
    # The head keeps (out, in) in both layouts: a tied one is the embedding's own memory.
    if shape.dtype == "float32":
        builder.op("Gemm", [x, builder.weight(head)], out="logits", transB=1)
    else:
        y = builder.op("Gemm", [x, builder.weight(head)], transB=1)
        builder.op("Cast", [y], out="logits", to=1)
    builder.output("logits", "float32", (shape.dim("n_rows"), config.vocab_size))
