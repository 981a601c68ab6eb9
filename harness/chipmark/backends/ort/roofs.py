"""The matrix roof of a provider, by a product of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from chipmark.backends.ort.device_memory import DeviceMemory
from chipmark_models.onnx_graphs.builder import Graph, GraphBuilder

_REPEATS = 5
_SIZES = (128, 256, 512, 1024)
_LONGEST_S = 0.5
"""A size is left out where the one before says that a product of it takes longer."""
_DTYPES = {"float": "float32", "float16": "float16", "uint8": "uint8", "int32": "int32"}


def matmul_graph(precision: str, size: int) -> Graph:
    """c = a b, square, of `size` rows. `precision` int8: uint8 by constant int8 into int32, which
    is the fastest of the integer products that the CPU provider has; fp16; else fp32."""
    builder = GraphBuilder()
    shape = (size, size)
    if precision == "int8":
        weights = builder.constant(np.ones(shape), "int8")
        builder.op("MatMulInteger", [builder.input("a", "uint8", shape), weights], out="c")
        builder.output("c", "int32", shape)
        return builder.build("matmul", "plain", "float32")
    dtype = "float16" if precision == "fp16" else "float32"
    builder.op("MatMul", [builder.input(n, dtype, shape) for n in ("a", "b")], out="c")
    builder.output("c", dtype, shape)
    return builder.build("matmul", "plain", dtype)


def best_matmul_rate(
    open_session: Callable[[Graph], Any], precision: str, memory: DeviceMemory | None = None
) -> float:
    """Operations per second of square products, the best of five at the largest size that does not
    take long, or at a smaller one.

    memory: of the provider's device, where it has its own: matrices lie there, and none crosses the
    bus in the time.
    """
    best = 0.0
    for size in _SIZES:
        if best and 2.0 * size**3 / best > _LONGEST_S:
            break
        session = open_session(matmul_graph(precision, size))
        best = max(best, _rate(session, size, memory))
    return best


def _rate(session: Any, size: int, memory: DeviceMemory | None) -> float:
    feed = {
        given.name: np.ones((size, size), _DTYPES[given.type[len("tensor(") : -1]])
        for given in session.get_inputs()
    }
    run = _in_host_memory(session, feed) if memory is None else _on_device(session, feed, memory)
    run()
    took = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        run()
        took.append(time.perf_counter() - start)
    return 2.0 * size**3 / min(took)


def _in_host_memory(session: Any, feed: dict[str, Any]) -> Callable[[], object]:
    return lambda: session.run(None, feed)


def _on_device(session: Any, feed: dict[str, Any], memory: DeviceMemory) -> Callable[[], object]:
    io = session.io_binding()
    for name, array in feed.items():
        value = memory.make(array.shape, array.dtype)
        value.update_inplace(array)
        io.bind_ortvalue_input(name, value)
    (given,) = session.get_outputs()
    result = _DTYPES[given.type[len("tensor(") : -1]]
    shape = next(iter(feed.values())).shape
    io.bind_ortvalue_output(given.name, memory.make(shape, result))
    fence = memory.make((1,), np.float32)

    def run() -> object:
        session.run_with_iobinding(io)
        return fence.numpy()  # what is read back comes after the product

    return run
