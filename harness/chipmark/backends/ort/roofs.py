"""The matrix roof of a provider, by a product of its own."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from chipmark_models.onnx_graphs.builder import Graph, GraphBuilder

_REPEATS = 5
_MATRIX = 1024


def matmul_graph(dtype: str) -> Graph:
    """c = a b, square, of `_MATRIX` rows. dtype int8: uint8 by constant int8 into int32, which is
    the fastest of the integer products that the CPU provider has."""
    builder = GraphBuilder()
    shape = (_MATRIX, _MATRIX)
    if dtype == "int8":
        weights = builder.constant(np.ones(shape), dtype)
        builder.op("MatMulInteger", [builder.input("a", "uint8", shape), weights], out="c")
        builder.output("c", "int32", shape)
        return builder.build("matmul", "plain", "float32")
    builder.op("MatMul", [builder.input(n, dtype, shape) for n in ("a", "b")], out="c")
    builder.output("c", dtype, shape)
    return builder.build("matmul", "plain", dtype)


def session_matmul_rate(session: Any, dtype: str) -> float:
    """FLOP, or integer operations, per second of a square product (`matmul_graph`), best of
    five."""
    a = np.ones((_MATRIX, _MATRIX), "uint8" if dtype == "int8" else dtype)
    feed = {"a": a} if dtype == "int8" else {"a": a, "b": a}
    session.run(None, feed)
    best = 0.0
    for _ in range(_REPEATS):
        start = time.perf_counter()
        session.run(None, feed)
        best = max(best, 2.0 * _MATRIX**3 / (time.perf_counter() - start))
    return best
