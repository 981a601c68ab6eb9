"""Greedy sampling as a graph: the largest logit's id, and the two largest of each row.

Of equal logits the first is the largest, and the other is the second: as NumPy's argmax has it.
"""

from __future__ import annotations

from typing import Literal

from chipmark_models.onnx_graphs.builder import Graph, GraphBuilder

Sampling = Literal["TopK", "ArgMax"]
SAMPLINGS: tuple[Sampling, ...] = ("TopK", "ArgMax")
"""By which operators: one TopK, or ArgMax and maxima for what has no TopK."""

_FLOAT = 1  # TensorProto.FLOAT
_LOWEST = -3.0e38


def sampling_graph(by: Sampling, vocab: int, rows: int | None) -> Graph:
    """Input `logits` float32 (rows, vocab); outputs `values` float32 (rows, 2), the larger first,
    and `ids` int64 (rows, 2) of both by TopK, (rows, 1) of the larger by ArgMax."""
    b = GraphBuilder()
    n: int | str = "rows" if rows is None else rows
    logits = b.input("logits", "float32", (n, vocab))
    if by == "TopK":
        b.ops("TopK", [logits, b.constant([2])], 2, outs=("values", "ids"), axis=-1)
    else:
        b.op("ArgMax", [logits], out="ids", axis=-1, keepdims=1)
        largest = b.op("ReduceMax", [logits], axes=[-1], keepdims=1)
        equal = b.op("Equal", [logits, largest])
        count = b.op("ReduceSum", [b.op("Cast", [equal], to=_FLOAT), b.constant([-1])], keepdims=1)
        others = b.op("Where", [equal, b.constant(_LOWEST, "float32"), logits])
        below = b.op("ReduceMax", [others], axes=[-1], keepdims=1)
        alone = b.op("Less", [count, b.constant(1.5, "float32")])
        second = b.op("Where", [alone, below, largest])
        b.op("Concat", [largest, second], out="values", axis=-1)
    b.output("values", "float32", (n, 2))
    b.output("ids", "int64", (n, 2 if by == "TopK" else 1))
    return b.build(f"sampling-{by}", "plain", "float32")
