"""How much of a graph's work ran on the provider's own device, at the shapes that are run.

ONNX Runtime gives the nodes that each provider took; the work of a node is counted from the walk
that wrote it. The smaller share of FLOPs and of bytes is the coverage: attention left on the CPU
is few FLOPs and many bytes, norms left there are no FLOPs and many crossings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from chipmark_models.config import ModelConfig
from chipmark_models.onnx_graphs.builder import Graph

_SHAPE_OPS = frozenset({"Shape", "Concat", "Range", "Squeeze", "Unsqueeze", "Reshape", "Slice"})
"""Nodes that compute or change shapes; counted as no work."""

_WRITTEN_OUT = frozenset({"Attention", "RMSNormalization", "RotaryEmbedding"})
"""Operators that ONNX defines by others: where no provider has a kernel of its own, ONNX Runtime
puts the others in their place, without a name."""


_PRODUCTS = frozenset({"Gemm", "MatMul", "MatMulNBits"})


@dataclass(frozen=True, slots=True)
class Work:
    """FLOPs and bytes of memory traffic of a node."""

    flops: float
    n_bytes: float


@dataclass(frozen=True, slots=True)
class Assignment:
    """Node names that one provider took, under ONNX Runtime's name of the provider."""

    ep_name: str
    nodes: tuple[str, ...]


def node_work(
    graph: Graph, config: ModelConfig, *, batch: int, chunk: int, context: int
) -> dict[str, Work]:
    """Work of every node of `graph` at these sizes, by node name.

    A linear layer: 2 x rows x weights FLOPs, its weights read once as they are stored (codes and
    scales of quantised ones; by the node that unpacks them where there is one). An attention
    product: 2 x heads x chunk x keys x head_dim, its keys or values read once. Rows of K or V that
    the graph writes into the cache: read and written, no FLOPs. A gather from a table: the rows.
    Any other node: its activations read and written (hidden size), one FLOP an element.
    """
    rows, item = batch * chunk, 4 if graph.dtype == "float32" else 2
    sizes = {view.name: view.n_weights for view in graph.weights}
    sizes |= {name: int(table.size) for name, table in graph.tables.items()}
    stored = {view.name: view.n_bytes for view in graph.weights}
    work: dict[str, Work] = {}
    cached = _cached_names(graph)
    for info in graph.nodes:
        element = float(rows * config.hidden_size)
        weight = max((sizes.get(name, 0) for name in info.inputs), default=0)
        if info.op_type in _PRODUCTS and weight > config.head_dim**2:
            n_bytes = float(sum(stored.get(name, 0) for name in info.inputs))
            work[info.name] = Work(2.0 * rows * weight, n_bytes)
        elif info.op_type == "DequantizeLinear":
            work[info.name] = Work(0.0, float(sum(stored[name] for name in info.inputs)))
            sizes[info.outputs[0]] = weight
        elif info.op_type in ("GroupQueryAttention", "Attention"):
            work[info.name] = _attention(config, batch, chunk, context + chunk, item, 2)
        elif info.op_type == "MatMul" and weight == 0 and not _is_rotation(info.inputs):
            n_keys = context if any(name in cached for name in info.inputs) else chunk
            work[info.name] = _attention(config, batch, chunk, n_keys, item, 1)
        elif info.op_type == "TensorScatter":
            work[info.name] = Work(0.0, 2.0 * rows * config.kv_size * item)
        elif info.op_type in _SHAPE_OPS:
            work[info.name] = Work(0.0, 0.0)
        else:
            work[info.name] = Work(element, 2.0 * element * item)
    return work


def _cached_names(graph: Graph) -> set[str]:
    """Cache inputs, and transpositions of them."""
    names = {port.name for port in graph.inputs if port.name.startswith("past_")}
    for info in graph.nodes:
        if info.op_type == "Transpose" and info.inputs[0] in names:
            names.update(info.outputs)
    return names


def _is_rotation(inputs: Iterable[str]) -> bool:
    return any(name.startswith("const_") for name in inputs)


def _attention(
    config: ModelConfig, batch: int, chunk: int, keys: int, item: int, products: int
) -> Work:
    flops = 2.0 * batch * chunk * config.n_heads * keys * config.head_dim * products
    return Work(flops, float(batch * config.n_kv_heads * keys * config.head_dim * item * products))


def coverage(work: Mapping[str, Work], assigned: Iterable[Assignment], ep_name: str) -> float:
    """The smaller of the shares of FLOPs and of bytes whose nodes `ep_name` took, 0 to 1.

    Nodes that ONNX Runtime made itself or folded away are in neither share. An operator that was
    written out by others was taken where all nodes without a name were.
    """
    mine: set[str] = set()
    seen: set[str] = set()
    nameless_left = False
    for part in assigned:
        seen.update(part.nodes)
        if part.ep_name == ep_name:
            mine.update(part.nodes)
        else:
            nameless_left |= "" in part.nodes
    if "" in seen:
        written_out = {n for n in work if n not in seen and n.rpartition("_")[0] in _WRITTEN_OUT}
        seen |= written_out
        mine |= set() if nameless_left else written_out
    known = [name for name in work if name in seen]
    flops = sum(work[name].flops for name in known)
    n_bytes = sum(work[name].n_bytes for name in known)
    if not flops or not n_bytes:
        return 0.0
    taken = [name for name in known if name in mine]
    return min(
        sum(work[name].flops for name in taken) / flops,
        sum(work[name].n_bytes for name in taken) / n_bytes,
    )


def read_assignment(session: Any) -> tuple[Assignment, ...]:
    """What `session.record_ep_graph_assignment_info` recorded; () where it records nothing."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return ()
    return tuple(
        Assignment(subgraph.ep_name, tuple(node.name for node in subgraph.get_nodes()))
        for subgraph in session.get_provider_graph_assignment_info()
    )
