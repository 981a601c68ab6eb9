"""Reading and writing safetensors by numpy and mmap, with every offset checked before use.

Format: 8 bytes little-endian length of a JSON header, the header {name: {dtype, shape,
data_offsets}}, then the data. Public specification: huggingface/safetensors, "Format".
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from chipmark_models.config import ModelConfig
from chipmark_models.errors import BadInputError
from chipmark_models.weights.naming import HEAD, check_shapes, expected_shapes
from chipmark_models.weights.source import FloatArray, StoredArray, widen

_MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
_READ_PRECISION = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
_DTYPES: Mapping[str, npt.DTypeLike] = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "i1", "U8": "u1", "F8_E4M3": "u1", "BOOL": "?",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor within a file: `offset` counts from the start of the file, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int


class SafetensorsFile:
    """One mapped file. `raw(name)` is a zero-copy view, BF16 as uint16, F8_E4M3 as uint8.

    Raises BadInputError, before any data is read, for a file that is cut short, overlaps itself
    or has a header that is no valid one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self.size = self.path.stat().st_size
            with self.path.open("rb") as file:
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
            raise BadInputError(self.path, "is no safetensors file: the header's length is wrong")
        self.data_start = 8 + length
        if self.data_start > self.size:
            raise BadInputError(self.path, f"is cut short within the header ({self.size} bytes)")
        try:
            header = json.loads(file.read(length))
        except ValueError as exc:
            raise BadInputError(self.path, f"the header is no JSON: {exc}") from exc
        if not isinstance(header, dict):
            raise BadInputError(self.path, "the header is no JSON object")
        return header

    def _entry(self, name: str, value: Any) -> TensorEntry:
        try:
            dtype, shape = value["dtype"], tuple(value["shape"])
            start, stop = value["data_offsets"]
        except (KeyError, TypeError, ValueError) as exc:
            raise BadInputError(self.path, f"bad header entry ({exc})", field=name) from exc
        if dtype not in _DTYPES:
            raise BadInputError(self.path, f"has type {dtype!r}, which is not read", field=name)
        if not all(type(n) is int and n >= 0 for n in (*shape, start, stop)):
            raise BadInputError(self.path, "has a negative or non-integer size", field=name)
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
            self._map = np.asarray(np.memmap(self.path, np.uint8, mode="r"))
        flat = self._map[entry.offset : entry.offset + entry.n_bytes]
        dtype = np.dtype(_DTYPES[entry.dtype])
        if entry.offset % dtype.itemsize:
            flat = flat.copy()
        return flat.view(dtype).reshape(entry.shape)


class SafetensorsWeights:
    """A WeightSource over a folder with config.json and safetensors, or over one such file.

    Shards are found through model.safetensors.index.json. F32, F16 and BF16 are read.
    """

    kind = "safetensors"

    def __init__(self, path: str | os.PathLike[str], name: str = "") -> None:
        given = Path(path)
        folder = given if given.is_dir() else given.parent
        self.config = read_config(folder, name or folder.name)
        files = [given] if given.is_file() else _shards(folder)
        self._files: dict[str, SafetensorsFile] = {}
        for file in (SafetensorsFile(f) for f in files):
            for tensor, entry in file.entries.items():
                if tensor.endswith(".rotary_emb.inv_freq"):
                    continue
                if entry.dtype not in _READ_PRECISION:
                    raise BadInputError(
                        file.path, f"has type {entry.dtype}; F32, F16, BF16 are read", field=tensor
                    )
                if tensor in self._files:
                    raise BadInputError(file.path, "is in two files", field=tensor)
                self._files[tensor] = file
        shapes = {t: f.entries[t].shape for t, f in self._files.items()}
        check_shapes(
            self.config, shapes, given, ignorable=(HEAD,) if self.config.tied_embeddings else ()
        )
        self._paths = files

    @cached_property
    def hash(self) -> str:
        """sha256 over the sha256 of config.json and of each file, in order of their names."""
        paths = sorted([*self._paths, self._paths[0].parent / "config.json"], key=lambda p: p.name)
        lines = [f"{p.name} {sha256_of_file(p)}\n" for p in paths]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def names(self) -> tuple[str, ...]:
        """Tensor names in the order of computation."""
        return tuple(expected_shapes(self.config))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._files[name].entries[name].shape

    def read(self, name: str) -> FloatArray:
        """The tensor in float32, C-contiguous (a read-only view of the file where it is F32)."""
        file = self._files[name]
        precision = _READ_PRECISION[file.entries[name].dtype]
        return np.ascontiguousarray(widen(file.raw(name), precision))


def read_config(folder: Path, name: str) -> ModelConfig:
    """The ModelConfig of a folder's config.json (and generation_config.json's end tokens)."""
    path = folder / "config.json"
    data = read_json_object(path, hint="a model folder holds config.json and safetensors")
    generation = folder / "generation_config.json"
    if generation.is_file():
        eos = read_json_object(generation).get("eos_token_id")
        data = data | ({"eos_token_id": eos} if eos is not None else {})
    return ModelConfig.from_hf(data, name, path)


def read_json_object(path: Path, hint: str = "") -> dict[str, Any]:
    """A JSON file that holds an object; BadInputError otherwise."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise BadInputError(path, f"cannot be read: {exc.strerror or exc}", hint=hint) from exc
    except ValueError as exc:
        raise BadInputError(path, f"is no JSON: {exc}") from exc
    if not isinstance(data, dict):
        raise BadInputError(path, "is no JSON object")
    return data


def _shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = read_json_object(index).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
            raise BadInputError(index, "must map tensors to files", field="weight_map")
        files = sorted(set(names.values()))
        for file in files:
            if Path(file).name != file:
                raise BadInputError(index, f"{file!r} leaves the folder", field="weight_map")
            if not (folder / file).is_file():
                raise BadInputError(folder / file, "the shard is lacking", hint=f"named by {index}")
        return [folder / file for file in files]
    single = folder / "model.safetensors"
    if not single.is_file():
        raise BadInputError(folder, "holds no model.safetensors and no index of shards")
    return [single]


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """sha256 of a file's bytes, hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
