"""Weights in the precision of a run: written once as a file that numpy maps, or computed.

A prepared folder holds `model.safetensors` (tensors aligned to 64 bytes) and `prepared.json`
(config, hashes, index). A child process opens it with numpy alone, copies nothing that it does
not touch, and needs no package that reads the source.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from chipmark_models.config import ModelConfig
from chipmark_models.errors import BadInputError
from chipmark_models.weights.naming import check_shapes
from chipmark_models.weights.safetensors_file import SafetensorsFile, read_json_object
from chipmark_models.weights.source import (
    ITEM_BYTES,
    FloatArray,
    StoredArray,
    WeightRef,
    WeightSource,
    check_precision,
    hash_tensors,
    open_weights,
    round_to,
    source_hash,
    thread_count,
    widen,
)

SCHEMA = 1
ALIGNMENT = 64
STREAM_OVER_BYTES = 4_000_000_000  # larger synthetic models are computed instead of stored

_SAFETENSORS_DTYPE = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
_PAD = "_pad."
_DATA_FILE, _INDEX_FILE = "model.safetensors", "prepared.json"


@dataclass(frozen=True, slots=True)
class WeightSpec:
    """Weights as a child process is told of them: the source, the precision, the folder if any.

    `folder` is None where the tensors are computed in the child (large synthetic models).
    """

    ref: WeightRef
    precision: str
    folder: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` is its inverse."""
        return {"ref": self.ref.to_dict(), "precision": self.precision, "folder": self.folder}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> WeightSpec:
        """Inverse of `to_dict`."""
        return WeightSpec(WeightRef.from_dict(data["ref"]), data["precision"], data["folder"])


class PrecisionWeights(Protocol):
    """A model's tensors in one precision, mapped or computed: what backends load from."""

    @property
    def config(self) -> ModelConfig:
        """Shape of the model."""

    @property
    def precision(self) -> str:
        """One of PRECISIONS."""

    @property
    def source_hash(self) -> str:
        """Hash of the WeightSource."""

    @property
    def precision_hash(self) -> str:
        """Hash of the stored tensors, see `source.hash_tensors`."""

    def names(self) -> tuple[str, ...]:
        """Tensor names in the order of computation."""

    def tensor(self, name: str) -> StoredArray:
        """The stored values: float32, float16, or uint16 bits of bf16. May be read-only."""

    def float32(self, name: str) -> FloatArray:
        """The stored values widened to float32: the weights that this precision computes with."""


class PreparedWeights:
    """A prepared folder; `tensor` is a read-only view of the mapped file."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        index = read_json_object(self.folder / _INDEX_FILE, hint="not a folder of prepared weights")
        try:
            if index["schema"] != SCHEMA:
                raise BadInputError(self.folder / _INDEX_FILE, f"is not {SCHEMA}", field="schema")
            self.config = ModelConfig.from_dict(index["config"])
            self.precision: str = index["precision"]
            self.source_hash: str = index["source_hash"]
            self.source_kind: str = index["source_kind"]
            self.precision_hash: str = index["precision_hash"]
        except KeyError as exc:
            raise BadInputError(
                self.folder / _INDEX_FILE, "is lacking", field=str(exc.args[0])
            ) from exc
        check_precision(self.precision)
        self._file = SafetensorsFile(self.folder / _DATA_FILE)
        entries = {n: e for n, e in self._file.entries.items() if not n.startswith(_PAD)}
        self._names = tuple(entries)
        check_shapes(self.config, {n: e.shape for n, e in entries.items()}, self._file.path)
        for name, entry in entries.items():
            if entry.dtype != _SAFETENSORS_DTYPE[self.precision] or entry.offset % ALIGNMENT:
                raise BadInputError(self._file.path, "has a wrong type or offset", field=name)

    @property
    def path(self) -> Path:
        """The data file, for readers of external data by path and offset."""
        return self._file.path

    def names(self) -> tuple[str, ...]:
        """Tensor names in the order of computation."""
        return self._names

    def tensor(self, name: str) -> StoredArray:
        """Zero-copy view of the file: float32, float16, or uint16 bits of bf16."""
        return self._file.raw(name)

    def float32(self, name: str) -> FloatArray:
        """The tensor widened to float32 (a view where it is stored so)."""
        return widen(self.tensor(name), self.precision)

    def offset(self, name: str) -> int:
        """Byte offset of the tensor in `path`, a multiple of 64."""
        return self._file.entries[name].offset

    def n_bytes(self, name: str) -> int:
        """Bytes of the tensor in `path`."""
        return self._file.entries[name].n_bytes

    def verify(self) -> None:
        """Hash all tensors again; BadInputError where they are not those that were written."""
        if hash_tensors(self.names(), self.tensor) != self.precision_hash:
            raise BadInputError(self.path, "the tensors are not those that were written")


class ComputedWeights:
    """Rounds a source's tensors when they are asked for; keeps nothing."""

    def __init__(self, source: WeightSource, precision: str) -> None:
        check_precision(precision)
        self._source = source
        self.config = source.config
        self.precision = precision
        self.source_hash = source.hash

    @cached_property
    def precision_hash(self) -> str:
        """Hash of the rounded tensors; computes all of them (10 ns a weight and thread)."""
        return hash_tensors(self.names(), self.tensor)

    def names(self) -> tuple[str, ...]:
        """Tensor names in the order of computation."""
        return self._source.names()

    def tensor(self, name: str) -> StoredArray:
        """The tensor rounded to the precision, newly made."""
        return round_to(self._source.read(name), self.precision)

    def float32(self, name: str) -> FloatArray:
        """The rounded tensor widened to float32."""
        if self._source.kind == "synthetic" and self.precision == "bf16":
            return self._source.read(name)  # exact in bf16 by the rule: no rounding to undo
        return widen(self.tensor(name), self.precision)


def cache_folder() -> Path:
    """$CHIPMARK_CACHE, else $XDG_CACHE_HOME/chipmark, else ~/.cache/chipmark."""
    own, xdg = os.environ.get("CHIPMARK_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own)
    return (Path(xdg) if xdg else Path.home() / ".cache") / "chipmark"


def stored_bytes(source: WeightSource, precision: str) -> int:
    """Bytes of all tensors in `precision`."""
    elements = sum(int(np.prod(source.shape(n))) for n in source.names())
    return elements * ITEM_BYTES[precision]


def prepare_spec(
    ref: WeightRef, precision: str, cache_dir: Path | None = None, *, to_disk: bool | None = None
) -> WeightSpec:
    """What to hand to a child: prepares on disk, or leaves large synthetic models to be computed.

    `to_disk` overrides the choice (an ONNX graph's external data must lie in a file).
    """
    if to_disk is None:
        small = ref.kind == "synthetic" and (
            stored_bytes(open_weights(ref), precision) <= STREAM_OVER_BYTES
        )
        to_disk = ref.kind != "synthetic" or small
    folder = str(prepare(ref, precision, cache_dir).folder) if to_disk else None
    return WeightSpec(ref, precision, folder)


def open_any(spec: WeightSpec) -> PrecisionWeights:
    """Open what `prepare_spec` named; needs the standard library and numpy only."""
    if spec.folder is not None:
        return PreparedWeights(spec.folder)
    return ComputedWeights(open_weights(spec.ref), spec.precision)


def open_prepared(path: str | os.PathLike[str]) -> PreparedWeights:
    """Open a prepared folder; BadInputError where it is not whole."""
    return PreparedWeights(path)


def prepare(
    ref: WeightRef,
    precision: str,
    cache_dir: Path | None = None,
    *,
    source: WeightSource | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PreparedWeights:
    """Write the weights once under `<cache>/prepared/<hash16>-<precision>/`, or find them there.

    The folder is renamed into place when it is whole: a process that is killed leaves a hidden
    one that nobody reads, and of two processes at once the later finds the other's. `progress`
    is told (bytes done, bytes in all). Raises BadInputError, OSError for a full disk.
    """
    check_precision(precision)
    source_digest = source.hash if source else source_hash(ref)
    parent = (cache_dir or cache_folder()) / "prepared"
    folder = parent / f"{source_digest[:16]}-{precision}"
    if folder.exists():
        try:
            found = PreparedWeights(folder)
        except BadInputError:
            shutil.rmtree(folder)  # of an older schema, or damaged: made again below
        else:
            if found.source_hash == source_digest and found.precision == precision:
                return found
            raise BadInputError(folder, "belongs to other weights", hint="remove the folder")
    source = source or open_weights(ref)
    parent.mkdir(parents=True, exist_ok=True)
    with _scratch(parent, folder.name) as scratch:
        lines = _write(source, precision, scratch / _DATA_FILE, progress)
        index = {
            "schema": SCHEMA,
            "config": source.config.to_dict(),
            "source_kind": source.kind,
            "source_hash": source.hash,
            "precision": precision,
            "precision_hash": lines,
        }
        (scratch / _INDEX_FILE).write_text(json.dumps(index, indent=1), encoding="utf-8")
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    return PreparedWeights(folder)


@contextmanager
def _scratch(parent: Path, name: str) -> Iterator[Path]:
    scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(
    source: WeightSource,
    precision: str,
    path: Path,
    progress: Callable[[int, int], None] | None,
) -> str:
    """Write all tensors in parallel; returns the precision hash of what was written."""
    header, total = _header(source, precision)
    digests: dict[str, str] = {}
    entries = json.loads(header)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        start = 8 + len(header)
        file.truncate(start + total)
        done = 0

        def write(name: str) -> int:
            array = np.ascontiguousarray(round_to(source.read(name), precision))
            data = array.reshape(-1).view(np.uint8).data
            shape = "x".join(str(n) for n in array.shape)
            digests[name] = f"{name} {shape} {array.dtype.str} {hashlib.sha256(data).hexdigest()}\n"
            at, left = start + entries[name]["data_offsets"][0], memoryview(data)
            while left:
                n = os.pwrite(file.fileno(), left, at)
                at, left = at + n, left[n:]
            return array.nbytes

        with ThreadPoolExecutor(thread_count()) as pool:
            for n_bytes in pool.map(write, source.names()):
                done += n_bytes
                if progress:
                    progress(done, total)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256("".join(digests[n] for n in sorted(digests)).encode()).hexdigest()


def _header(source: WeightSource, precision: str) -> tuple[bytes, int]:
    """A safetensors header whose length aligns the data, and the data's bytes with its padding."""
    entries: dict[str, Any] = {}
    at = 0
    for name in source.names():
        shape = source.shape(name)
        n_bytes = int(np.prod(shape)) * ITEM_BYTES[precision]
        entries[name] = {
            "dtype": _SAFETENSORS_DTYPE[precision],
            "shape": list(shape),
            "data_offsets": [at, at + n_bytes],
        }
        at += n_bytes
        if gap := -at % ALIGNMENT:
            # Readers of safetensors refuse holes, so the gap is a tensor of its own.
            pad = {"dtype": "U8", "shape": [gap], "data_offsets": [at, at + gap]}
            entries[f"{_PAD}{len(entries)}"] = pad
            at += gap
    header = json.dumps(entries, separators=(",", ":")).encode()
    return header + b" " * (-(8 + len(header)) % ALIGNMENT), at
