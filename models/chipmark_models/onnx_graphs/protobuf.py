"""Writes the few ONNX protobuf messages that a graph needs, without the `onnx` package.

A vendor's container has onnxruntime and NumPy, and often an `onnx` too old or none. The wire
format is that of protocol buffers (varint, 64-bit, length-delimited, 32-bit); field numbers are
those of onnx.proto (IR version 8 and later keep them).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# TensorProto.DataType of onnx.proto.
DATA_TYPES: Mapping[str, int] = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "bfloat16": 16,
    "int4": 22,
}
Dim = int | str
"""A fixed size, or the name of a free dimension."""

_FLOAT, _INT, _STRING, _TENSOR, _FLOATS, _INTS = 1, 2, 3, 4, 6, 7


def _varint(value: int) -> bytes:
    if value < 0:
        value += 1 << 64
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _int(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def tensor(
    name: str, array: npt.NDArray[Any], dtype: str = "", shape: Sequence[int] | None = None
) -> bytes:
    """A TensorProto with its data inside; dtypes as in DATA_TYPES. `dtype` and `shape` are given
    where the array holds packed values: int4, two a byte, the first in the low half."""
    sizes = array.shape if shape is None else shape
    head = b"".join(_int(1, n) for n in sizes) + _int(2, DATA_TYPES[dtype or array.dtype.name])
    return head + _text(8, name) + _bytes(9, np.ascontiguousarray(array).tobytes())


def external_tensor(
    name: str, dtype: str, shape: Sequence[int], location: str, offset: int, length: int
) -> bytes:
    """A TensorProto whose data is `length` bytes at `offset` of the file `location`."""
    entries = (("location", location), ("offset", str(offset)), ("length", str(length)))
    data = b"".join(_bytes(13, _text(1, key) + _text(2, value)) for key, value in entries)
    head = b"".join(_int(1, n) for n in shape) + _int(2, DATA_TYPES[dtype])
    return head + _text(8, name) + data + _int(14, 1)


def value_info(name: str, dtype: str, shape: Iterable[Dim]) -> bytes:
    """A ValueInfoProto: a graph input or output; a string is a free dimension."""
    dims = b"".join(
        _bytes(1, _text(2, dim) if isinstance(dim, str) else _int(1, dim)) for dim in shape
    )
    tensor_type = _int(1, DATA_TYPES[dtype]) + _bytes(2, dims)
    return _text(1, name) + _bytes(2, _bytes(1, tensor_type))


def attribute(name: str, value: Any) -> bytes:
    """An AttributeProto of an int, float, str, list of ints, list of floats, or an array."""
    head = _text(1, name)
    if isinstance(value, bool | int):
        return head + _int(3, int(value)) + _int(20, _INT)
    if isinstance(value, float):
        return head + _varint(2 << 3 | 5) + struct.pack("<f", value) + _int(20, _FLOAT)
    if isinstance(value, str):
        return head + _text(4, value) + _int(20, _STRING)
    if isinstance(value, np.ndarray):
        return head + _bytes(5, tensor("", value)) + _int(20, _TENSOR)
    if all(isinstance(item, int) for item in value):
        return head + b"".join(_int(8, item) for item in value) + _int(20, _INTS)
    floats = b"".join(_varint(7 << 3 | 5) + struct.pack("<f", item) for item in value)
    return head + floats + _int(20, _FLOATS)


def node(
    op_type: str,
    inputs: Iterable[str],
    outputs: Iterable[str],
    name: str,
    domain: str,
    attributes: Mapping[str, Any],
) -> bytes:
    """A NodeProto."""
    parts = [_text(1, item) for item in inputs] + [_text(2, item) for item in outputs]
    parts += [_text(3, name), _text(4, op_type)]
    parts += [_bytes(5, attribute(key, value)) for key, value in attributes.items()]
    if domain:
        parts.append(_text(7, domain))
    return b"".join(parts)


def model(
    name: str,
    nodes: Iterable[bytes],
    initializers: Iterable[bytes],
    inputs: Iterable[bytes],
    outputs: Iterable[bytes],
    opsets: Mapping[str, int],
    ir_version: int,
) -> bytes:
    """A ModelProto; `opsets` maps a domain ("" is ai.onnx) to its version."""
    graph = b"".join(_bytes(1, item) for item in nodes) + _text(2, name)
    graph += b"".join(_bytes(5, item) for item in initializers)
    graph += b"".join(_bytes(11, item) for item in inputs)
    graph += b"".join(_bytes(12, item) for item in outputs)
    head = _int(1, ir_version) + _text(2, "chipmark") + _bytes(7, graph)
    return head + b"".join(
        _bytes(8, (_text(1, domain) if domain else b"") + _int(2, version))
        for domain, version in opsets.items()
    )
