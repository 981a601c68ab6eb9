"""Reading and writing safetensors by numpy and mmap, with every offset checked before use.

Format: 8 bytes little-endian length of a JSON header, the header {name: {dtype, shape,
data_offsets}}, then the data. Public specification: huggingface/safetensors, "Format".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from chipmark_models.errors import BadInputError
from chipmark_models.foreign_file import MIB, open_foreign, parse_json, size_of
from chipmark_models.model_folder import check_place
from chipmark_models.weights.plain import StoredArray

_MAX_HEADER_BYTES = 32 * MIB
"""Of a hundred thousand tensors; the reference implementation reads up to 100 MB, which take
a gigabyte and a half when they are parsed."""

_MAX_DIMENSIONS = 32
_DTYPES: Mapping[str, npt.DTypeLike] = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "i1", "U8": "u1", "F8_E4M3": "u1", "BOOL": "?",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor within a file."""

    dtype: str
    """The format's name of the type."""

    shape: tuple[int, ...]
    """(out, in) for a matrix."""

    offset: int
    """Bytes from the start of the file."""

    n_bytes: int
    """Bytes of the tensor."""


class SafetensorsFile:
    """One mapped file. `raw(name)` is a zero-copy view, BF16 as uint16, F8_E4M3 as uint8.

    Raises BadInputError, before any data is read, for a file that is cut short, overlaps itself
    or has an invalid header.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        check_place(self.path)
        with open_foreign(path) as file:
            self.size = size_of(file)
            try:
                header = self._read_header(file)
            except OSError as exc:
                raise BadInputError(path, f"cannot be read: {exc.strerror or exc}") from exc
        self.metadata: dict[str, str] = header.pop("__metadata__", None) or {}
        self.entries = {name: self._entry(name, value) for name, value in header.items()}
        self._check_no_overlap()
        self._map: npt.NDArray[np.uint8] | None = None

    def _read_header(self, file: BinaryIO) -> dict[str, Any]:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > _MAX_HEADER_BYTES or length < 2:
            raise BadInputError(
                self.path, "is not a safetensors file: the header's length is wrong"
            )
        self.data_start = 8 + length
        if self.data_start > self.size:
            raise BadInputError(self.path, f"is cut short within the header ({self.size} bytes)")
        header = parse_json(file.read(length), self.path, unique=True)
        if not isinstance(header, dict):
            raise BadInputError(self.path, "the header is not a JSON object")
        return header

    def _entry(self, name: str, value: Any) -> TensorEntry:
        try:
            dtype, shape = value["dtype"], tuple(value["shape"])
            start, stop = value["data_offsets"]
        except (KeyError, TypeError, ValueError) as exc:
            raise BadInputError(self.path, f"bad header entry ({exc})", field=name) from exc
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise BadInputError(self.path, f"has type {dtype!r}, which is not read", field=name)
        if not all(type(n) is int and 0 <= n < 1 << 62 for n in (*shape, start, stop)):
            raise BadInputError(self.path, "has a negative or non-integer size", field=name)
        if len(shape) > _MAX_DIMENSIONS:
            raise BadInputError(self.path, f"has {len(shape)} dimensions", field=name)
        n_bytes = np.dtype(_DTYPES[dtype]).itemsize
        for n in shape:
            n_bytes *= n
        if stop - start != n_bytes:
            raise BadInputError(
                self.path,
                f"spans {stop - start} bytes, its shape {shape} needs {n_bytes}",
                field=name,
            )
        if self.data_start + stop > self.size:
            raise BadInputError(
                self.path,
                f"ends at byte {self.data_start + stop}, the file at {self.size}: it is cut short",
                field=name,
                hint="fetch the file again",
            )
        return TensorEntry(dtype, shape, self.data_start + start, n_bytes)

    def _check_no_overlap(self) -> None:
        end = 0
        for name, entry in sorted(self.entries.items(), key=lambda item: item[1].offset):
            if entry.n_bytes and entry.offset < end:
                raise BadInputError(self.path, "overlaps another tensor", field=name)
            end = max(end, entry.offset + entry.n_bytes)

    def raw(self, name: str) -> StoredArray:
        """The stored values, a read-only view of the mapped file where it is aligned."""
        entry = self.entries[name]
        if self._map is None:
            with open_foreign(self.path) as file:
                self._map = np.asarray(np.memmap(file, np.uint8, mode="r"))
        flat = self._map[entry.offset : entry.offset + entry.n_bytes]
        dtype = np.dtype(_DTYPES[entry.dtype])
        if entry.offset % dtype.itemsize:
            flat = flat.copy()
        return flat.view(dtype).reshape(entry.shape)
