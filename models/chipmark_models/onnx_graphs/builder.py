"""Collects nodes, initializers and the weights that are bound from outside, into one model."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from chipmark_models.onnx_graphs import protobuf

OPSET = 15
"""The version of ai.onnx of a graph that asks for no other. Builds of vendors stay at old ones:
CANN's provider took none above 15 for long, and CANN's parser knows ReduceMean up to 16."""

OPSET_OF_BLOCKS = 21
"""The first with DequantizeLinear by blocks, and with int4."""

_IR_VERSIONS = ((OPSET_OF_BLOCKS, 10), (1, 8))
"""From a version of ai.onnx on, the lowest IR version to declare. Nothing newer of the format is
used, and a runtime refuses a number above its own."""


class ViewForm(StrEnum):
    """What of its tensors an initializer holds."""

    VALUES = "values"
    NBITS_CODES = "codes of MatMulNBits"
    BLOCK_CODES = "codes of DequantizeLinear"
    SCALES = "scales"


@dataclass(frozen=True, slots=True)
class WeightView:
    """An initializer made from tensors of the model.

    `parts` are canonical tensor names, stacked along the first axis (out); `shape` is what the
    graph sees: (out, in), or (in, out) where `transposed`. `repeats` repeats each part that
    often along a new first axis (norm weights of heads). dtype as in protobuf.DATA_TYPES.
    `form` other than VALUES: codes or scales of quantised tensors, as `quantised_linear` writes
    them; `weights` is then the number of weights that the codes stand for.
    """

    name: str
    parts: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    transposed: bool = False
    repeats: tuple[int, ...] = ()
    form: ViewForm = ViewForm.VALUES
    weights: int = 0

    @property
    def n_bytes(self) -> int:
        """Bytes of the array; two values of int4 take one."""
        bits = 4 if self.dtype == "int4" else 8 * np.dtype(self.dtype).itemsize
        return math.prod(self.shape) * bits // 8

    @property
    def n_weights(self) -> int:
        """Weights that the array stands for; 0 of scales."""
        if self.form is ViewForm.VALUES:
            return math.prod(self.shape)
        return self.weights


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an initializer's bytes lie: `length` bytes at `offset` of the file `location`."""

    location: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node as the walk wrote it: enough to count its work after a provider has chosen."""

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the graph; a string in `shape` is a free dimension."""

    name: str
    dtype: str
    shape: tuple[protobuf.Dim, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """A model without its large initializers, and what they are.

    `weights` are views of the model's tensors, `tables` computed arrays. `hash` is the sha256 of
    the model with every initializer left out. `opset` is the version of ai.onnx.
    """

    name: str
    level: str
    dtype: str
    nodes: tuple[NodeInfo, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    weights: tuple[WeightView, ...]
    tables: dict[str, npt.NDArray[Any]]
    hash: str
    opset: int
    _node_bytes: tuple[bytes, ...]
    _constants: tuple[bytes, ...]
    _domains: tuple[str, ...]

    def serialize(
        self, placements: Mapping[str, Placement], inline: Mapping[str, npt.NDArray[Any]]
    ) -> bytes:
        """The ModelProto. Every weight and table has a placement or is given as an array."""
        initializers = list(self._constants)
        views = {view.name: (view.dtype, view.shape) for view in self.weights}
        views |= {name: (table.dtype.name, table.shape) for name, table in self.tables.items()}
        for name, (dtype, shape) in views.items():
            if name in inline:
                initializers.append(protobuf.tensor(name, inline[name], dtype, shape))
            else:
                at = placements[name]
                initializers.append(
                    protobuf.external_tensor(name, dtype, shape, at.location, at.offset, at.length)
                )
        return self._model(initializers)

    def _model(self, initializers: Sequence[bytes]) -> bytes:
        return protobuf.model(
            self.name,
            self._node_bytes,
            initializers,
            [protobuf.value_info(p.name, p.dtype, p.shape) for p in self.inputs],
            [protobuf.value_info(p.name, p.dtype, p.shape) for p in self.outputs],
            {"": self.opset} | dict.fromkeys(self._domains, 1),
            next(version for opset, version in _IR_VERSIONS if self.opset >= opset),
        )


@dataclass(slots=True)
class GraphBuilder:
    """Appends nodes in order; value names are unique. `opset` is the version of ai.onnx."""

    opset: int = OPSET
    nodes: list[bytes] = field(default_factory=list)
    infos: list[NodeInfo] = field(default_factory=list)
    initializers: list[bytes] = field(default_factory=list)
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    weights: dict[str, WeightView] = field(default_factory=dict)
    tables: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    domains: set[str] = field(default_factory=set)
    constants: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)

    def op(
        self,
        op_type: str,
        inputs: Sequence[str],
        *,
        domain: str = "",
        out: str = "",
        **attributes: Any,
    ) -> str:
        """Append a node with one output, and return the output's name (`out`, or a new one)."""
        return self.ops(op_type, inputs, 1, domain=domain, outs=(out,), **attributes)[0]

    def ops(
        self,
        op_type: str,
        inputs: Sequence[str],
        n_outputs: int,
        *,
        domain: str = "",
        outs: Sequence[str] = (),
        **attributes: Any,
    ) -> list[str]:
        """Append a node with several outputs; an empty name in `outs` gets a new one, and
        "-" leaves an optional output out."""
        name = f"{op_type}_{len(self.nodes)}"
        given = list(outs) + [""] * (n_outputs - len(outs))
        names = [
            "" if want == "-" else want or f"{name}_{index}" for index, want in enumerate(given)
        ]
        self.nodes.append(protobuf.node(op_type, inputs, names, name, domain, attributes))
        self.infos.append(NodeInfo(name, op_type, tuple(inputs), tuple(names)))
        self.domains.add(domain)
        return names

    def constant(self, array: npt.ArrayLike, dtype: str = "int64") -> str:
        """A small initializer inside the model; equal ones are shared."""
        value = np.asarray(array, dtype)
        key = (value.dtype.name, value.shape, value.tobytes())
        if key not in self.constants:
            self.constants[key] = f"const_{len(self.constants)}"
            self.initializers.append(protobuf.tensor(self.constants[key], value))
        return self.constants[key]

    def weight(self, view: WeightView) -> str:
        """An external initializer from the model's tensors; asking twice gives the same."""
        self.weights.setdefault(view.name, view)
        return view.name

    def table(self, name: str, array: npt.NDArray[Any]) -> str:
        """An initializer with computed content, placed like a weight."""
        self.tables.setdefault(name, array)
        return name

    def input(self, name: str, dtype: str, shape: Sequence[protobuf.Dim]) -> str:
        """Declare a graph input."""
        self.inputs.append(Port(name, dtype, tuple(shape)))
        return name

    def output(self, name: str, dtype: str, shape: Sequence[protobuf.Dim]) -> str:
        """Declare a graph output; a node must produce this name."""
        self.outputs.append(Port(name, dtype, tuple(shape)))
        return name

    def build(self, name: str, level: str, dtype: str) -> Graph:
        """Everything appended so far as a graph."""
        graph = Graph(
            name=name,
            level=level,
            dtype=dtype,
            nodes=tuple(self.infos),
            inputs=tuple(self.inputs),
            outputs=tuple(self.outputs),
            weights=tuple(self.weights.values()),
            tables=dict(self.tables),
            hash="",
            opset=self.opset,
            _node_bytes=tuple(self.nodes),
            _constants=tuple(self.initializers),
            _domains=tuple(sorted(domain for domain in self.domains if domain)),
        )
        digest = hashlib.sha256(graph._model(graph._constants)).hexdigest()
        return replace(graph, hash=digest)
