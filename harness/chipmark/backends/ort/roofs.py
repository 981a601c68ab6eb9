"""The matrix roof of a provider, by a product of its own."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from chipmark_models.onnx_graphs.builder import Graph, GraphBuilder

_REPEATS = 5
_MATRIX = 1024
_DTYPES = {"float": "float32", "float16": "float16", "uint8": "uint8"}


def matmul_graph(precision: str) -> Graph:
    """c = a b, square, of `_MATRIX` rows. `precision` int8: uint8 by constant int8 into int32,
    which is the fastest of the integer products that the CPU provider has; fp16; else fp32."""
    builder = GraphBuilder()
    shape = (_MATRIX, _MATRIX)
    if precision == "int8":
        weights = builder.constant(np.ones(shape), "int8")
        builder.op("MatMulInteger", [builder.input("a", "uint8", shape), weights], out="c")
        builder.output("c", "int32", shape)
        return builder.build("matmul", "plain", "float32")
    dtype = "float16" if precision == "fp16" else "float32"
    builder.op("MatMul", [builder.input(n, dtype, shape) for n in ("a", "b")], out="c")
    builder.output("c", dtype, shape)
    return builder.build("matmul", "plain", dtype)


def session_matmul_rate(session: Any) -> float:
    """Operations per second of a square product (`matmul_graph`), best of five."""
    feed = {
        given.name: np.ones((_MATRIX, _MATRIX), _DTYPES[given.type[len("tensor(") : -1]])
        for given in session.get_inputs()
    }
    session.run(None, feed)
    best = 0.0
    for _ in range(_REPEATS):
        start = time.perf_counter()
        session.run(None, feed)
        best = max(best, 2.0 * _MATRIX**3 / (time.perf_counter() - start))
    return best
