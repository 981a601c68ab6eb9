"""Memory of a provider's own device: tensors that the host can neither read nor write in place.

A plug-in's device lists its memory, and its allocator is asked by that; a provider inside the
wheel has the `io_device` of its data. Some devices give addresses, so that a part of a tensor can
be bound; others (WebGPU's buffers) give handles, and only whole tensors are bound there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chipmark.backends.ort.providers import Located

Array = npt.NDArray[Any]

_BY_ADDRESS = frozenset({"cuda", "cann"})
"""ONNX Runtime's names of devices whose `data_ptr` is an address that can be counted up. On any
other it may be a handle, and reading behind it would end the process."""


@dataclass(frozen=True, slots=True)
class DeviceTensors:
    """Tensors of one shape (slots, heads, rows, width), in the order of their names.

    addresses: the OrtDevice whose addresses a range of slots is bound by; None binds all slots.
    """

    names: tuple[str, ...]
    values: tuple[Any, ...]
    shape: tuple[int, int, int, int]
    dtype: np.dtype[Any]
    addresses: Any

    @property
    def slots(self) -> int:
        """Of the first axis."""
        return self.shape[0]

    @property
    def rows(self) -> int:
        """Of the third axis."""
        return self.shape[2]

    @property
    def n_bytes(self) -> int:
        """Of all tensors."""
        return len(self.values) * int(np.prod(self.shape)) * self.dtype.itemsize

    def bind(self, io: Any, prefix: str, first: int, last: int, *, output: bool = False) -> None:
        """Bind slots first..last of every tensor as the inputs, or outputs, PREFIX_NAME.

        Raises ValueError for a part of tensors that are bound whole.
        """
        if (first, last) == (0, self.slots):
            bind = io.bind_ortvalue_output if output else io.bind_ortvalue_input
            for name, value in zip(self.names, self.values, strict=True):
                bind(prefix + name, value)
            return
        if self.addresses is None:
            raise ValueError(f"slots {first} to {last} of tensors that are bound whole")
        shape = (last - first, *self.shape[1:])
        skipped = first * int(np.prod(self.shape[1:])) * self.dtype.itemsize
        for name, value in zip(self.names, self.values, strict=True):
            bind = io._iobinding.bind_output if output else io._iobinding.bind_input
            bind(prefix + name, self.addresses, self.dtype.type, shape, value.data_ptr() + skipped)


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Allocates on one device. `make` gives an OrtValue that nothing was written to; `addresses`
    as in DeviceTensors."""

    device: str
    addresses: Any
    make: Callable[[tuple[int, ...], npt.DTypeLike], Any]

    def tensors(
        self, names: tuple[str, ...], shape: tuple[int, int, int, int], dtype: npt.DTypeLike
    ) -> DeviceTensors:
        """A tensor for each name. Their content is whatever was there."""
        values = tuple(self.make(shape, dtype) for _ in names)
        return DeviceTensors(names, values, shape, np.dtype(dtype), self.addresses)


def device_memory(located: Located) -> DeviceMemory | None:
    """The memory of the provider's device where that is not the host's; None where it is, or where
    nothing names it. Raises what ONNX Runtime raises where the memory does not allocate."""
    import onnxruntime as ort

    if located.ep_device is None:
        name = located.provider.io_device
        if name == "cpu":
            return None

        def on_device(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
            kind = np.dtype(dtype).type
            return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), kind, name, 0)

        return _tried(on_device)
    info = _own_memory(located.ep_device)
    if info is None:
        return None

    def own(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        kind = np.dtype(dtype).type
        return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), kind, memory_info=info)

    return _tried(own)


def _own_memory(ep_device: Any) -> Any:
    """The default memory that a plug-in's device lists; None where it lists none."""
    import onnxruntime as ort

    kinds = getattr(ort, "OrtDeviceMemoryType", None)
    if kinds is None or not hasattr(ep_device, "memory_info"):
        return None
    return ep_device.memory_info(kinds.DEFAULT)


def _tried(make: Callable[[tuple[int, ...], npt.DTypeLike], Any]) -> DeviceMemory | None:
    device = str(make((1, 1, 1, 8), np.float32).device_name())
    if device == "cpu":
        return None
    return DeviceMemory(device, addresses_of(device) if device in _BY_ADDRESS else None, make)


def addresses_of(device: str) -> Any:
    """The OrtDevice of addresses on this device."""
    import onnxruntime as ort

    return ort.OrtDevice.make(device, 0)._get_c_device()
