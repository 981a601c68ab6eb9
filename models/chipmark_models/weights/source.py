"""What a source of weights offers, how it is named in a spec, and the rounding to a precision."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from chipmark_models.config import ModelConfig
from chipmark_models.errors import BadInputError, UnknownNameError
from chipmark_models.precision import PLAIN

KINDS = ("synthetic", "safetensors", "gguf")
# bf16 is kept as its raw bits: numpy has no such type, and the bits are what every reader wants.
STORED_DTYPE: Mapping[str, npt.DTypeLike] = {"fp32": "<f4", "bf16": "<u2", "fp16": "<f2"}
ITEM_BYTES: Mapping[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2}

_ROUND_CHUNK = 1 << 20

FloatArray = npt.NDArray[np.float32]
StoredArray = npt.NDArray[Any]


class WeightSource(Protocol):
    """Weights of one model under the tensor names of Hugging Face, which are canonical here.

    `hash` is the sha256 of the source: of the file bytes, or of the rule, config and seed.
    """

    @property
    def config(self) -> ModelConfig:
        """Shape of the model."""

    @property
    def kind(self) -> str:
        """One of KINDS."""

    @property
    def hash(self) -> str:
        """sha256 of the source, hexadecimal."""

    def names(self) -> tuple[str, ...]:
        """Tensor names, in the order of `naming.expected_shapes`."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, (out, in) for a matrix."""

    def read(self, name: str) -> FloatArray:
        """The tensor in float32, C-contiguous, dequantised where the source is quantised."""


@dataclass(frozen=True, slots=True)
class WeightRef:
    """Where weights come from, small enough for a spec and a record.

    `model` is a preset's name (required for "synthetic", a label elsewhere); `path` the folder of
    safetensors or the GGUF file; `seed` of synthetic weights.
    """

    kind: str
    model: str
    path: str | None
    seed: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownNameError("weight source", self.kind, KINDS)
        if self.kind == "synthetic" and not self.model:
            raise BadInputError("weight reference", "is lacking", field="model")
        if self.kind != "synthetic" and not self.path:
            raise BadInputError("weight reference", "is lacking", field="path")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` is its inverse."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> WeightRef:
        """Inverse of `to_dict`."""
        fields = ("kind", "model", "path", "seed")
        for key in data:
            if key not in fields:
                raise UnknownNameError("field of a weight reference", key, fields)
        for key in fields:
            if key not in data:
                raise BadInputError("weight reference", "is lacking", field=key)
        return WeightRef(data["kind"], data["model"], data["path"], int(data["seed"]))


def open_weights(ref: WeightRef) -> WeightSource:
    """Open the source and check every tensor's name and shape; reads no tensor data yet.

    Raises BadInputError (a cut file, a lacking tensor, a wrong shape) or UnknownNameError.
    """
    if ref.kind == "synthetic":
        from chipmark_models.presets import preset
        from chipmark_models.weights.synthetic import SyntheticWeights

        return SyntheticWeights(preset(ref.model), ref.seed)
    assert ref.path is not None
    if ref.kind == "safetensors":
        from chipmark_models.weights.checkpoint import SafetensorsWeights

        return SafetensorsWeights(ref.path, name=ref.model)
    from chipmark_models.weights.gguf_file import GgufWeights

    return GgufWeights(ref.path, name=ref.model)


def source_hash(ref: WeightRef) -> str:
    """The source's `hash` without parsing or checking it: quick, to look for what was prepared."""
    if ref.kind == "gguf":
        from chipmark_models.weights.gguf_file import hash_of_model

        assert ref.path is not None
        return hash_of_model(Path(ref.path))
    return open_weights(ref).hash


def check_plain(precision: str) -> None:
    """Raise UnknownNameError unless `precision` is one without scales."""
    if precision not in PLAIN:
        raise UnknownNameError("plain precision", precision, PLAIN)


def round_to(array: FloatArray, precision: str) -> StoredArray:
    """Round float32 to nearest, ties to even.

    Returns float32 itself for "fp32", the raw bits as uint16 for "bf16", float16 for "fp16"
    (values beyond its range become infinite, as the hardware's conversion does). Same shape.
    """
    check_plain(precision)
    if precision == "fp32":
        return array
    if precision == "fp16":
        with np.errstate(over="ignore"):
            return array.astype(np.float16)
    flat = np.ascontiguousarray(array).reshape(-1)
    out = np.empty(flat.shape, np.uint16)
    for start in range(0, flat.size, _ROUND_CHUNK):
        bits = flat[start : start + _ROUND_CHUNK].view(np.uint32)
        rounded = (bits + (((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF))) >> 16
        nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        if nan.any():  # adding to a NaN's mantissa could carry it over to infinity
            rounded[nan] = (bits[nan] >> np.uint32(16)) | np.uint32(0x40)
        out[start : start + _ROUND_CHUNK] = rounded
    return out.reshape(array.shape)


def widen(array: StoredArray, precision: str) -> FloatArray:
    """Inverse of `round_to` without loss: float32 of the stored values, same shape."""
    check_plain(precision)
    if precision == "bf16":
        wide = np.empty(array.shape, np.uint32)
        np.left_shift(array, np.uint32(16), out=wide, casting="unsafe", dtype=np.uint32)
        return wide.view(np.float32)
    return np.asarray(array, np.float32)


def thread_count() -> int:
    """Threads for work on weights: the CPUs of this process, at most 8."""
    cpus = (
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    return max(1, min(8, len(cpus)))
