"""The matrix roof of a provider, by a product of its own."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from chipmark_models.onnx_graphs.builder import Graph, GraphBuilder

_REPEATS = 5
_MATRIX = 1024


def matmul_graph(dtype: str) -> Graph:
    """c = a b, square, of `_MATRIX` rows."""
    builder = GraphBuilder()
    shape = (_MATRIX, _MATRIX)
    builder.op("MatMul", [builder.input(n, dtype, shape) for n in ("a", "b")], out="c")
    builder.output("c", dtype, shape)
    return builder.build("matmul", "plain", dtype)


def session_matmul_rate(session: Any, dtype: str) -> float:
    """FLOP per second of a square product (`matmul_graph`), best of five."""
    a = np.ones((_MATRIX, _MATRIX), dtype)
    session.run(None, {"a": a, "b": a})
    best = 0.0
    for _ in range(_REPEATS):
        start = time.perf_counter()
        session.run(None, {"a": a, "b": a})
        best = max(best, 2.0 * _MATRIX**3 / (time.perf_counter() - start))
    return best
