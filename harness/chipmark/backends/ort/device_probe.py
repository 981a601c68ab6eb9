"""Whether a session sees memory of its device as it is now, tried before KV is put there.

What `binding.is_live` is for memory that the host can write: bind, run, change the memory by a run
of another graph on the device, run again. Rows move by the very graphs that write KV later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from chipmark.backends.ort.binding import bind_output
from chipmark.backends.ort.device_memory import DeviceMemory
from chipmark.backends.ort.row_mover import RowMover, Rows
from chipmark_models.onnx_graphs.builder import Graph, GraphBuilder

_SLOTS, _ROWS, _WIDTH = 3, 3, 8


def device_probe_graph(slots: int, *, static: bool) -> Graph:
    """y = x (slots, 1, 3, 8) times a constant matrix; `slots` is a free dimension unless static."""
    b = GraphBuilder()
    shape = (slots if static else "slots", 1, _ROWS, _WIDTH)
    matrix = np.arange(_WIDTH * _WIDTH, dtype=np.float32).reshape(_WIDTH, _WIDTH) % 7 + 1
    x = b.input("x", "float32", shape)
    b.op("MatMul", [x, b.constant(matrix, "float32")], out="y")
    b.output("y", "float32", shape)
    return b.build("device-probe", "plain", "float32")


def is_live_on_device(
    memory: DeviceMemory, open_whole: Callable[[Graph], Any], static: bool
) -> bool:
    """Whether a session sees rows that another one wrote, and no others, in memory bound before.

    Where the device has addresses the second of three slots is bound, else all of them.
    """
    first, last = (1, 2) if memory.addresses else (0, _SLOTS)
    mover = RowMover(("x",), 1, _WIDTH, "float32", open_whole, static)
    shape = (_SLOTS, 1, _ROWS, _WIDTH)
    tensors, others = (memory.tensors(("x",), shape, np.float32) for _ in range(2))
    mover.fill(tensors, 1.0)
    mover.fill(others, 2.0)
    session = open_whole(device_probe_graph(last - first, static=static))
    io = session.io_binding()
    out = np.zeros((last - first, 1, _ROWS, _WIDTH), np.float32)
    bind_output(io, "y", out)
    tensors.bind(io, "", first, last)
    session.run_with_iobinding(io)
    expected = out.copy()
    mover.copy(others, tensors, Rows(0, 0, 2), Rows(1, 1, 2))
    session.run_with_iobinding(io)
    expected[1 - first, :, 1:] *= 2.0
    return bool(np.array_equal(out, expected) and expected.any())
