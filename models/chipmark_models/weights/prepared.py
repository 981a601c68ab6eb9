"""Weights in the precision of a run: written once as a file that numpy maps, or computed.

A prepared folder holds `model.safetensors` (tensors aligned to 64 bytes) and `prepared.json`
(config, hashes, index). A child process opens it with numpy alone, copies nothing that it does
not touch, and needs no package that reads the source.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from chipmark_models.cache import cache_path
from chipmark_models.config import ModelConfig
from chipmark_models.errors import BadInputError
from chipmark_models.files import writing
from chipmark_models.model_folder import read_json_object
from chipmark_models.precision import group_of, precision_named, stored_as, tensor_bytes
from chipmark_models.scratch import Scratch
from chipmark_models.tensors import expected_shapes
from chipmark_models.weights import writer
from chipmark_models.weights.open import open_weights, source_hash
from chipmark_models.weights.plain import FloatArray, StoredArray, widen
from chipmark_models.weights.quality import WeightError
from chipmark_models.weights.quantise import RULE, QuantisedTensor
from chipmark_models.weights.safetensors_file import SafetensorsFile
from chipmark_models.weights.source import WeightRef, WeightSource
from chipmark_models.weights.stored import SCALES, Stored, encode, hash_tensors, parts_of

SCHEMA = 1
STREAM_OVER_BYTES = 4_000_000_000  # larger synthetic models are computed instead of stored

_DATA_FILE, _INDEX_FILE = "model.safetensors", "prepared.json"


@dataclass(frozen=True, slots=True)
class WeightSpec:
    """Weights as a child process gets them."""

    ref: WeightRef
    """The source."""

    precision: str
    """How the weights are stored and computed with."""

    folder: str | None
    """The prepared folder; None where the child computes the tensors (large synthetic models)."""

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
        """Hash of the stored arrays, see `stored.hash_tensors`."""

    @property
    def weight_error(self) -> WeightError | None:
        """What quantising cost against the source weights; None for a plain precision."""

    def names(self) -> tuple[str, ...]:
        """Tensor names in the order of computation."""

    def stored_as(self, name: str) -> str:
        """How that tensor is stored: "w8", "w4" or "fp8", else a plain precision."""

    def tensor(self, name: str) -> StoredArray:
        """The stored values of a tensor that is not quantised: float32, float16, or uint16 bits
        of bf16. May be read-only. BadInputError for a quantised one."""

    def quantised(self, name: str) -> QuantisedTensor:
        """A quantised matrix; its arrays may be read-only. BadInputError for another tensor."""

    def float32(self, name: str) -> FloatArray:
        """The stored values widened to float32: the weights that this precision computes with."""


class _StoredWeights:
    """What mapped and computed weights have in common: how a tensor is stored, and its values."""

    config: ModelConfig
    precision: str

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return expected_shapes(self.config)

    def names(self) -> tuple[str, ...]:
        """Tensor names in the order of computation."""
        return tuple(self._shapes)

    def stored_as(self, name: str) -> str:
        """How that tensor is stored: "w8", "w4" or "fp8", else a plain precision."""
        return stored_as(self.precision, name, self._shapes[name])

    def tensor(self, name: str) -> StoredArray:
        """The stored values; BadInputError for a quantised tensor."""
        found = self._stored(name)
        if isinstance(found, QuantisedTensor):
            raise BadInputError(name, f"is stored as {found.precision}: packed values and scales")
        return found

    def quantised(self, name: str) -> QuantisedTensor:
        """A quantised matrix; BadInputError for a tensor that is stored plainly."""
        found = self._stored(name)
        if not isinstance(found, QuantisedTensor):
            raise BadInputError(name, f"is stored as {self.stored_as(name)}: it has no scales")
        return found

    def float32(self, name: str) -> FloatArray:
        """The stored values widened to float32 (a view where they are stored so)."""
        found = self._stored(name)
        if isinstance(found, QuantisedTensor):
            return found.dequantise()
        return widen(found, self.stored_as(name))

    def _stored(self, name: str) -> Stored:
        raise NotImplementedError


class PreparedWeights(_StoredWeights):
    """A prepared folder; arrays are read-only views of the mapped file."""

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
                self.folder / _INDEX_FILE, "is missing", field=str(exc.args[0])
            ) from exc
        if precision_named(self.precision).quantised and index.get("quantiser") != RULE:
            raise BadInputError(self.folder / _INDEX_FILE, f"is not {RULE}", field="quantiser")
        found = index.get("weight_error")
        self.weight_error = None if found is None else WeightError.from_dict(found)
        self._file = SafetensorsFile(self.folder / _DATA_FILE)
        self._check_parts()

    def _check_parts(self) -> None:
        """Every array there with its type, shape and alignment, and no other."""
        found = {n: e for n, e in self._file.entries.items() if not n.startswith(writer.PAD)}
        for name, shape in self._shapes.items():
            for part, expected in parts_of(self.precision, name, shape).items():
                entry = found.pop(part, None)
                if entry is None:
                    raise BadInputError(self._file.path, "the tensor is missing", field=part)
                if entry.shape != expected.shape:
                    raise BadInputError(
                        self._file.path,
                        f"has shape {entry.shape}, expected {expected.shape}",
                        field=part,
                    )
                if entry.dtype != expected.dtype or entry.offset % writer.ALIGNMENT:
                    raise BadInputError(self._file.path, "has a wrong type or offset", field=part)
        if found:
            raise BadInputError(self._file.path, "does not belong to the model", field=min(found))

    @property
    def path(self) -> Path:
        """The data file, for readers of external data by path and offset."""
        return self._file.path

    def _stored(self, name: str) -> Stored:
        stored = self.stored_as(name)
        if not precision_named(stored).quantised:
            return self._file.raw(name)
        group = group_of(stored, self._shapes[name][1])
        assert group is not None
        scales = self._file.raw(name + SCALES)
        return QuantisedTensor(stored, self._file.raw(name), scales, group)

    def offset(self, name: str) -> int:
        """Byte offset of an array in `path`, a multiple of 64; scales are NAME + SCALES."""
        return self._file.entries[name].offset

    def n_bytes(self, name: str) -> int:
        """Bytes of an array in `path`."""
        return self._file.entries[name].n_bytes

    def verify(self) -> None:
        """Hash all tensors again; BadInputError where they are not those that were written."""
        if hash_tensors(self.names(), self._stored) != self.precision_hash:
            raise BadInputError(self.path, "the tensors are not those that were written")


class ComputedWeights(_StoredWeights):
    """Rounds or quantises a source's tensors when they are asked for; keeps nothing."""

    def __init__(self, source: WeightSource, precision: str) -> None:
        precision_named(precision)
        self._source = source
        self.config = source.config
        self.precision = precision
        self.source_hash = source.hash

    @cached_property
    def _all(self) -> writer.Written:
        return writer.encode_all(self._source, self.precision)

    @property
    def precision_hash(self) -> str:
        """Hash of the stored arrays; computes all of them once (10 ns a weight and thread)."""
        return self._all.precision_hash

    @property
    def weight_error(self) -> WeightError | None:
        """What quantising cost; computes all tensors once, with the hash."""
        return self._all.weight_error

    def float32(self, name: str) -> FloatArray:
        """The stored values widened to float32."""
        if self._source.kind == "synthetic" and self.stored_as(name) == "bf16":
            return self._source.read(name)  # exact in bf16 by the rule: no rounding to undo
        return super().float32(name)

    def _stored(self, name: str) -> Stored:
        return encode(self._source.read(name), self.precision, name)


def stored_bytes(source: WeightSource, precision: str) -> int:
    """Bytes of all tensors in `precision`, scales included."""
    return sum(tensor_bytes(precision, name, source.shape(name)) for name in source.names())


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
    one that is never read, and of two processes at once the later finds the other's. `progress`
    gets (bytes done, bytes in all). Raises BadInputError, CannotWriteError for a full disk.
    """
    precision_named(precision)
    source_digest = source.hash if source else source_hash(ref)
    folder = cache_path("prepared", f"{source_digest[:16]}-{precision}", folder=cache_dir)
    if folder.exists():
        try:
            found = PreparedWeights(folder)
        except BadInputError:
            # Of an older schema, or damaged: made again below.
            with writing(folder):
                shutil.rmtree(folder)
        else:
            if found.source_hash == source_digest and found.precision == precision:
                return found
            raise BadInputError(folder, "belongs to other weights", hint="remove the folder")
    source = source or open_weights(ref)
    with writing(folder), _scratch(folder.parent, folder.name) as scratch:
        stored = writer.write(source, precision, scratch / _DATA_FILE, progress)
        index: dict[str, Any] = {
            "schema": SCHEMA,
            "config": source.config.to_dict(),
            "source_kind": source.kind,
            "source_hash": source.hash,
            "precision": precision,
            "precision_hash": stored.precision_hash,
        }
        if precision_named(precision).quantised:
            error = stored.weight_error
            index |= {"quantiser": RULE, "weight_error": None if error is None else error.to_dict()}
        (scratch / _INDEX_FILE).write_text(json.dumps(index, indent=1), encoding="utf-8")
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    return PreparedWeights(folder)


def _scratch(parent: Path, name: str) -> Scratch:
    parent.mkdir(parents=True, exist_ok=True)
    return Scratch(f".{name}-", parent)
