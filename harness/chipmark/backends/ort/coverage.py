"""How much of a graph's work ran on the provider's own device, at the shapes that are run.

ONNX Runtime gives the nodes that each provider took; the work of a node is counted from the walk
that wrote it. The smaller share of FLOPs and of bytes is the coverage: attention left on the CPU
is few FLOPs and many bytes, norms left there are no FLOPs and many crossings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chipmark.engine.contract import HostOperator
from chipmark_models.config import ModelConfig
from chipmark_models.onnx_graphs.builder import Graph

_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Identity"})
"""Nodes whose output is their input's memory: no FLOPs, and bytes only where they leave it."""

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
    Any other node: its activations read and written (hidden size, or the scores of attention), one
    FLOP an element; what only reads and computes sizes of values counts nothing.
    """
    rows, item = batch * chunk, 4 if graph.dtype == "float32" else 2
    sizes = {view.name: view.n_weights for view in graph.weights}
    sizes |= {name: int(table.size) for name, table in graph.tables.items()}
    stored = {view.name: view.n_bytes for view in graph.weights}
    work: dict[str, Work] = {}
    cached, of_sizes = _cached_names(graph), _names_of_sizes(graph)
    scores = _names_of_scores(graph, sizes)
    n_scores = float(batch * chunk * config.n_heads * (context + chunk))
    for info in graph.nodes:
        element = float(rows * config.hidden_size)
        if scores.intersection((*info.inputs, *info.outputs)):
            element = max(element, n_scores)
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
        elif info.op_type == "Range":
            work[info.name] = Work(0.0, 4.0 * (context + chunk))
        elif of_sizes.issuperset(info.outputs):
            work[info.name] = Work(0.0, 0.0)
        else:
            flops = 0.0 if info.op_type in _VIEWS else element
            work[info.name] = Work(flops, 2.0 * element * item)
    return work


def _names_of_sizes(graph: Graph) -> set[str]:
    """Values that are sizes of other values, a few integers each, and what is computed from them
    alone: no work, wherever it is done. Range makes as many integers as it is given."""
    known: set[str] = set()
    for info in graph.nodes:
        own = all(not name or name in known or name.startswith("const_") for name in info.inputs)
        if info.op_type == "Shape" or (own and info.op_type != "Range"):
            known.update(info.outputs)
    return known


def _names_of_scores(graph: Graph, sizes: Mapping[str, int]) -> set[str]:
    """Values as large as the scores of attention, from the products that make them to the products
    with values that take them."""
    names: set[str] = set()
    for info in graph.nodes:
        inside = names.intersection(info.inputs)
        if info.op_type == "MatMul":
            plain = any(sizes.get(name, 0) for name in info.inputs) or _is_rotation(info.inputs)
            if not inside and not plain:
                names.update(info.outputs)
        elif inside:
            names.update(info.outputs)
    return names


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


def _left(work: Mapping[str, Work], assigned: Iterable[Assignment], ep_name: str) -> set[str]:
    """Nodes of the work that `ep_name` did not take.

    ONNX Runtime lists all that it leaves to the CPU, and of what a provider takes only what that
    one compiles: a node that is listed nowhere has a kernel of the provider, or was folded away.
    An operator that was written out by others has no name; it was taken where all such nodes were.
    """
    left: set[str] = set()
    listed: set[str] = set()
    for part in assigned:
        listed.update(part.nodes)
        if part.ep_name != ep_name:
            left.update(part.nodes)
    if "" in left:
        left |= {n for n in work if n not in listed and n.rpartition("_")[0] in _WRITTEN_OUT}
    return left.intersection(work) if listed else set(work)


def coverage(work: Mapping[str, Work], assigned: Iterable[Assignment], ep_name: str) -> float:
    """The smaller of the shares of FLOPs and of bytes whose nodes `ep_name` took, 0 to 1."""
    left = _left(work, assigned, ep_name)
    flops, n_bytes = _shares(work, left)
    return 1.0 - max(flops, n_bytes)


def _shares(work: Mapping[str, Work], nodes: Iterable[str]) -> tuple[float, float]:
    """Shares of all FLOPs and of all bytes that these nodes are."""
    some = [work[name] for name in nodes]
    flops = sum(each.flops for each in work.values())
    n_bytes = sum(each.n_bytes for each in work.values())
    return (
        min(1.0, sum(each.flops for each in some) / flops) if flops else 1.0,
        min(1.0, sum(each.n_bytes for each in some) / n_bytes) if n_bytes else 1.0,
    )


def host_operators(
    works: Sequence[Mapping[str, Work]], assigned: Iterable[Assignment], ep_name: str
) -> tuple[HostOperator, ...]:
    """What `ep_name` left to the CPU, a line a kind of operator, by the work at several sizes: the
    larger of the shares. Most bytes first."""
    parts = tuple(assigned)
    found: dict[str, HostOperator] = {}
    for work in works:
        kinds: dict[str, list[str]] = {}
        for name in _left(work, parts, ep_name):
            kinds.setdefault(name.rpartition("_")[0], []).append(name)
        for kind, nodes in kinds.items():
            flops, n_bytes = _shares(work, nodes)
            found[kind] = larger(HostOperator(kind, len(nodes), flops, n_bytes), found.get(kind))
    return by_bytes(found.values())


def larger(one: HostOperator, other: HostOperator | None) -> HostOperator:
    """The larger figures of two counts of one operator."""
    if other is None:
        return one
    return HostOperator(
        one.name,
        max(one.count, other.count),
        max(one.flops_share, other.flops_share),
        max(one.bytes_share, other.bytes_share),
    )


def by_bytes(operators: Iterable[HostOperator]) -> tuple[HostOperator, ...]:
    """Those that move most first."""
    return tuple(sorted(operators, key=lambda one: (-one.bytes_share, one.name)))


def read_assignment(session: Any) -> tuple[Assignment, ...]:
    """What `session.record_ep_graph_assignment_info` recorded; () where it records nothing."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return ()
    return tuple(
        Assignment(subgraph.ep_name, tuple(node.name for node in subgraph.get_nodes()))
        for subgraph in session.get_provider_graph_assignment_info()
    )
