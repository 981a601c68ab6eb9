"""Memory that a session reads KV from, and the probe that finds which kind is safe.

Binding an input may copy it there and then: a cache bound once is right in the first step and
silently wrong in every later one. So each way of binding is tried on a small graph before it is
used: bind, run, change the memory through the host's view, run again, compare.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from chipmark.backends.ort.runtime_errors import onnxruntime_errors
from chipmark_models.onnx_graphs.builder import Graph, GraphBuilder

Array = npt.NDArray[Any]
Way = Literal["shared", "provider", "device", "rebind"]
"""`shared`: the provider reads host memory as it is bound. `provider`: it copies such memory when
it is bound, and reads in place what it allocated itself and the host can write. `device`: memory of
its own, which only graphs on the device read and write. `rebind`: bound anew before every run,
which copies it."""


_HOST_ACCESSIBLE = 5
"""OrtDevice::MemType::HOST_ACCESSIBLE of onnxruntime's ortdevice.h, which Python does not name."""


class Memory(Protocol):
    """One array that the host writes and a session reads."""

    host: Array

    def bind(self, io: Any, name: str, first: int, last: int) -> None:
        """Bind rows first..last of the first axis as the input `name`."""

    def view(self, part: Array) -> Memory:
        """Memory of the same kind over `part`, an array inside `host`."""


@dataclass(slots=True)
class HostMemory:
    """NumPy memory; bound without a copy where the provider reads host memory."""

    host: Array

    def bind(self, io: Any, name: str, first: int, last: int) -> None:
        """Bind the address of the range."""
        part = self.host[first:last]
        io.bind_input(name, "cpu", 0, part.dtype.type, part.shape, part.ctypes.data)

    def view(self, part: Array) -> HostMemory:
        """The same kind over a part."""
        return HostMemory(part)


@dataclass(slots=True)
class ProviderMemory:
    """Memory from the provider's own allocator that the host can write."""

    host: Array
    value: Any
    device: Any

    def bind(self, io: Any, name: str, first: int, last: int) -> None:
        """Bind the address of the range as memory of the provider's device."""
        part = self.host[first:last]
        io._iobinding.bind_input(name, self.device, part.dtype.type, part.shape, part.ctypes.data)

    def view(self, part: Array) -> ProviderMemory:
        """The same kind over a part; keeps the allocation alive."""
        return ProviderMemory(part, self.value, self.device)


def allocate_host(shape: tuple[int, ...], dtype: npt.DTypeLike) -> HostMemory:
    """Zeroed host memory; pages are taken from the system when they are first written."""
    return HostMemory(np.zeros(shape, dtype))


def bind_input(io: Any, name: str, array: Array) -> None:
    """Bind a host array by its address."""
    io.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def bind_output(io: Any, name: str, array: Array) -> None:
    """Bind a host array, which runs write to, by its address."""
    io.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


Allocate = Callable[[tuple[int, ...], npt.DTypeLike], Memory]


def provider_allocators(session: Any, ep_device: Any) -> list[Allocate]:
    """Allocators of host-accessible memory of the provider, best first; [] where it has none.

    The shared allocator of the input's memory; the session's own; and an output that the
    provider places there itself. `session` is one of `probe_graph`.
    """
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    if ep_device is None or not hasattr(session, "get_input_memory_infos"):
        return []
    info = session.get_input_memory_infos()[0]
    if info.device_mem_type != ort.OrtDeviceMemoryType.HOST_ACCESSIBLE:
        return []
    kinds = {"CPU": state.OrtDevice.cpu, "GPU": state.OrtDevice.gpu, "NPU": state.OrtDevice.npu}
    kind = kinds[str(ep_device.device.type).rpartition(".")[2]]()
    device = state.OrtDevice(kind, _HOST_ACCESSIBLE, info.device_vendor_id, info.device_id)

    def shared(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Memory:
        kind = np.dtype(dtype).type
        value = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), kind, memory_info=info)
        return _host_view(value, shape, dtype, device)

    def own(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Memory:
        kind = np.dtype(dtype).type
        value = session._sess.create_ortvalue_from_shape_and_type(list(shape), kind, device)
        return _host_view(value, shape, dtype, device)

    def placed(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Memory:
        width = session.get_inputs()[0].shape[2]
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        source = np.zeros((1, -(-n_bytes // (4 * width)), width), np.float32)
        io = session.io_binding()
        io.bind_cpu_input("x", source)
        io._iobinding.bind_output("y", device)
        session.run_with_iobinding(io)
        return _host_view(io.get_outputs()[0], shape, dtype, device)

    return [shared, own, placed]


def _host_view(
    value: Any, shape: tuple[int, ...], dtype: npt.DTypeLike, device: Any
) -> ProviderMemory:
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = (ctypes.c_uint8 * n_bytes).from_address(value.data_ptr())
    host: Array = np.ctypeslib.as_array(raw).view(dtype).reshape(shape)
    host[...] = 0
    return ProviderMemory(host, value, device)


def probe_graph(rows: int | None = None, width: int = 8) -> Graph:
    """y (1, rows, width) = x (1, rows, width) times a constant matrix: what any provider takes.

    `rows` is a free dimension where None; a provider of fixed shapes needs 3 (`is_live`).
    """
    builder = GraphBuilder()
    n: int | str = "rows" if rows is None else rows
    matrix = np.arange(width * width, dtype=np.float32).reshape(width, width) % 7 + 1
    x = builder.input("x", "float32", (1, n, width))
    builder.op("MatMul", [x, builder.constant(matrix, "float32")], out="y")
    builder.output("y", "float32", (1, n, width))
    return builder.build("probe", "plain", "float32")


def is_live(session: Any, memory: Memory) -> bool:
    """Whether `session` (of `probe_graph`) sees changes of memory that it was bound to before.

    The second of three rows of `memory` (3, rows, width) is bound, as a slot of a cache is.
    """
    out = np.zeros((1, *memory.host.shape[1:]), np.float32)
    io = session.io_binding()
    io.bind_output("y", "cpu", 0, np.float32, out.shape, out.ctypes.data)
    memory.host[...] = 1.0
    memory.bind(io, "x", 1, 2)
    session.run_with_iobinding(io)
    first = out.copy()
    memory.host[1] = 2.0
    session.run_with_iobinding(io)
    return bool(np.array_equal(out, 2.0 * first) and first.any())


@dataclass(frozen=True, slots=True)
class BindingChoice:
    """The way that was found safe, and its allocator."""

    way: Way
    allocate: Allocate


def choose_binding(session: Any, ep_device: Any) -> BindingChoice:
    """Try the ways on a session of `probe_graph`, cheapest first."""
    shape = (3, 3, 8)
    if is_live(session, allocate_host(shape, np.float32)):
        return BindingChoice("shared", allocate_host)
    for allocate in provider_allocators(session, ep_device):
        try:
            live = is_live(session, allocate(shape, np.float32))
        except onnxruntime_errors():
            continue  # nothing is registered for that memory, or it is not bound by its address
        if live:
            return BindingChoice("provider", allocate)
    return BindingChoice("rebind", allocate_host)
