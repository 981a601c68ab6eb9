"""Operators as the graphs have them, on one provider of ONNX Runtime.

The graph of a case holds the operator once a layer, each on inputs and weights of its own and on
none of the others' results: a session's run costs the host as much as in a decoder, not once an
operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from chipmark.backends.host import chosen_threads
from chipmark.backends.host_read import read_bandwidth
from chipmark.backends.ort.providers import find_provider, locate
from chipmark.backends.ort.roofs import best_matmul_rate
from chipmark.backends.ort.session import (
    SessionSettings,
    open_plain_session,
    open_session,
    provider_options,
)
from chipmark.backends.ort.weights_file import place_weights
from chipmark.chips.cpu import read_cpu
from chipmark.errors import UsageError
from chipmark.kernel_bench.operators.case import PRODUCTS, Operator, OperatorCase, matrix_of
from chipmark.kernel_bench.operators.reference import Inputs, has_bias, parts
from chipmark.kernel_bench.operators.runner import Prepared
from chipmark_models.onnx_graphs.builder import GraphBuilder, WeightView
from chipmark_models.onnx_graphs.decoder_graph import emitter_of
from chipmark_models.onnx_graphs.emitter import Emitter, GraphShape, LayerWeights
from chipmark_models.tensors import EMBEDDING, HEAD, layer_prefix
from chipmark_models.weights.prepared import PrecisionWeights

Array = npt.NDArray[Any]


class OrtRunner:
    """`ort:DEVICE`. Raises what `find_provider` and `locate` raise, and UsageError for a precision
    that the provider does not compute or that is none of ONNX's."""

    def __init__(
        self, device: str, weights: PrecisionWeights, options: dict[str, Any], folder: Path
    ) -> None:
        self._located = locate(find_provider(device))
        provider, precision = self._located.provider, weights.precision
        if precision not in provider.precisions or precision not in ("fp32", "fp16"):
            computed = [name for name in provider.precisions if name in ("fp32", "fp16")]
            raise UsageError(
                f"operators on ort:{device} are not computed in {precision}",
                f"they are in {', '.join(computed)}",
            )
        self._weights = weights
        self._level = str(options.get("graph", provider.graph))
        self._dtype: Any = "float16" if precision == "fp16" else "float32"
        given = provider_options(self._located, precision, chosen_threads(), folder)
        given |= {k: str(v) for k, v in dict(options.get("provider", {})).items()}
        self._settings = SessionSettings(chosen_threads(), given, provider.prepacking, True, folder)

    @property
    def _on_host(self) -> bool:
        return self._located.provider.io_device == "cpu"

    def identity(self) -> dict[str, Any]:
        """Device, version of ONNX Runtime, graph level, options and threads."""
        return {
            "device": self._located.device_name,
            "onnxruntime": ort.__version__,
            "graph": self._level,
            "options": self._settings.options,
            "threads": self._settings.threads,
        }

    def synchronize(self) -> None:
        """A run returns when its outputs are there."""

    def cache_bytes(self) -> int | None:
        """The host's last-level cache; of another device nothing tells."""
        return read_cpu().llc_bytes if self._on_host else None

    def read_bytes_per_s(self, n_bytes: int) -> float | None:
        """Of the host's memory; standard operators cannot measure that of another device."""
        return read_bandwidth(n_bytes, self._settings.threads) if self._on_host else None

    def flops(self) -> float | None:
        """By square products of the provider."""
        return best_matmul_rate(
            lambda graph: open_plain_session(graph, self._located, self._settings),
            "fp16" if self._dtype == "float16" else "fp32",
        )

    def prepare(self, case: OperatorCase, inputs: Sequence[Inputs]) -> Prepared:
        """One session with all of them."""
        graph_case = _GraphCase(case, len(inputs), self._level, self._dtype)
        graph = graph_case.build()
        folder = self._settings.scratch / "weights"
        placed = place_weights(graph, self._weights, folder)
        sizes = {"batch": case.batch, "chunk": case.tokens, "context": max(1, case.context)}
        opened = open_session(
            graph, placed, self._located, self._settings, graph_case.config, sizes
        )
        io = opened.session.io_binding()
        device = self._located.provider.io_device
        kept: dict[str, Any] = {}
        for name, array in graph_case.feeds(inputs).items():
            kept[name] = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0)
            io.bind_ortvalue_input(name, kept[name])
        for port in graph.outputs:
            if port.name.startswith("present_"):  # the cache is written where it is read
                io.bind_ortvalue_output(port.name, kept[port.name.replace("present", "past")])
            else:
                io.bind_output(port.name, device)

        def call() -> None:
            opened.session.run_with_iobinding(io)

        def result() -> Array:
            call()
            return np.asarray(io.get_outputs()[0].numpy())

        problem = ""
        if opened.ep_coverage != 1.0:
            problem = f"{self._located.ep_name} does not take it: {opened.problem}"
        return Prepared([call], len(inputs), result, problem)


class _GraphCase:
    """The graph of a case and its feeds; output 0 is the first layer's result."""

    def __init__(self, case: OperatorCase, layers: int, level: str, dtype: Any) -> None:
        self.case = case
        self.config = replace(case.config, n_layers=layers)
        self.builder = GraphBuilder()
        # A provider may refuse a cache of no rows; one masked row stands for it.
        context = max(1, case.context) + (case.tokens if level == "contrib" else 0)
        self.shape = GraphShape(
            batch=case.batch, chunk=case.tokens, context=context, n_rows=case.rows,
            positions=case.context + case.tokens, dtype=dtype,
        )  # fmt: skip
        self.level = level
        self.emitter: Emitter = emitter_of(self.config, level, self.shape, self.builder)
        self.weights = LayerWeights(self.config, self.shape, self.builder)

    def build(self) -> Any:
        """The whole graph."""
        if self.case.operator is Operator.ATTENTION:
            self.emitter.begin()
        results = [self._operator(layer) for layer in range(self.config.n_layers)]
        outputs = self.builder.outputs
        ports = list(outputs)
        outputs.clear()
        ids = self.case.operator is Operator.GREEDY
        for name in results:
            self.builder.output(name, "int64" if ids else self.shape.dtype, self._out_shape())
        outputs.extend(ports)
        return self.builder.build(
            f"{self.config.name}-{self.case.kernel}", self.level, self.shape.dtype
        )

    def _out_shape(self) -> tuple[int, ...]:
        case, c = self.case, self.config
        if case.operator is Operator.GREEDY:
            return (case.rows,)
        widths = {
            Operator.EMBED: c.hidden_size,
            Operator.RMS_NORM: c.hidden_size,
            Operator.ATTENTION: c.q_size,
            Operator.SWIGLU: c.intermediate_size,
        }
        width = widths.get(case.operator) or matrix_of(case.operator, c)[0]
        return (case.rows, width)

    def _operator(self, layer: int) -> str:
        b, c, case, s = self.builder, self.config, self.case, self.shape
        if case.operator is Operator.EMBED:
            table = b.weight(
                WeightView(EMBEDDING, (EMBEDDING,), (c.vocab_size, c.hidden_size), s.dtype)
            )
            return b.op("Gather", [table, b.input(f"ids_{layer}", "int64", (case.rows,))], axis=0)
        if case.operator is Operator.ATTENTION:
            width = c.q_size + 2 * c.kv_size
            return self.emitter.attention(
                layer, b.input(f"qkv_{layer}", s.dtype, (case.rows, width))
            )
        x = b.input(f"x_{layer}", s.dtype, (case.rows, self._width()))
        if case.operator is Operator.RMS_NORM:
            name = f"{layer_prefix(layer)}input_layernorm.weight"
            return self.emitter.norm(x, self.weights.vector(name, c.hidden_size))
        if case.operator is Operator.SWIGLU:
            return self.emitter.swiglu(x)
        if case.operator is Operator.GREEDY:
            return b.op("ArgMax", [x], axis=-1, keepdims=0)
        if case.operator is Operator.HEAD:
            name = EMBEDDING if c.tied_embeddings else HEAD
            view = WeightView(name, (name,), (c.vocab_size, c.hidden_size), s.dtype)
            return b.op("Gemm", [x, b.weight(view)], transB=1)
        modules = parts(case, layer)
        rows = [c.q_size, c.kv_size, c.kv_size]
        if case.operator is not Operator.QKV:
            rows = [matrix_of(case.operator, c)[0] // len(modules)] * len(modules)
        name = f"{layer_prefix(layer)}{case.kernel}"
        return self.weights.linear(x, name, modules, tuple(rows), has_bias(case))

    def _width(self) -> int:
        case, c = self.case, self.config
        widths = {
            Operator.RMS_NORM: c.hidden_size,
            Operator.SWIGLU: 2 * c.intermediate_size,
            Operator.GREEDY: c.vocab_size,
        }
        in_product = case.operator in PRODUCTS or case.operator is Operator.HEAD
        return matrix_of(case.operator, c)[1] if in_product else widths[case.operator]

    def feeds(self, inputs: Sequence[Inputs]) -> dict[str, Array]:
        """Every input of the graph by name."""
        case, dtype = self.case, np.dtype(self.shape.dtype)
        found: dict[str, Array] = {}
        for layer, given in enumerate(inputs):
            for name, array in given.items():
                kept = array if array.dtype.kind == "i" else array.astype(dtype)
                found[f"{name}_{layer}"] = self._cached(kept) if name.startswith("past") else kept
        if case.operator is Operator.ATTENTION and self.level == "contrib":
            end = case.context + case.tokens
            found["past_length"] = np.full(case.batch, end - 1, np.int32)
            found["total_length"] = np.array(end, np.int32)
        elif case.operator is Operator.ATTENTION:
            kind = np.int64 if self.level == "standard" else np.int32
            found["start"] = np.full(case.batch, case.context, kind)
        return found

    def _cached(self, array: Array) -> Array:
        """Cached rows in a cache of the graph's capacity, zero beyond them."""
        c, s = self.config, self.shape
        assert s.context is not None
        cache = np.zeros((self.case.batch, c.n_kv_heads, s.context, c.head_dim), array.dtype)
        cache[:, :, : array.shape[2]] = array
        return cache
