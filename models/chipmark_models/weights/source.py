"""What a source of weights offers, and how it is named in a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from chipmark_models.config import ModelConfig
from chipmark_models.errors import BadInputError, UnknownNameError
from chipmark_models.weights.plain import FloatArray

KINDS = ("synthetic", "safetensors", "gguf")


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
        """Tensor names, in the order of `tensors.expected_shapes`."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, (out, in) for a matrix."""

    def read(self, name: str) -> FloatArray:
        """The tensor in float32, C-contiguous, dequantised where the source is quantised."""


@dataclass(frozen=True, slots=True)
class WeightRef:
    """Where weights come from, small enough for a spec and a record."""

    kind: str
    """One of KINDS."""

    model: str
    """A preset's name for "synthetic"; a label elsewhere."""

    path: str | None
    """The folder of safetensors or the GGUF file; None for synthetic weights."""

    seed: int
    """Seed of synthetic weights."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownNameError("weight source", self.kind, KINDS)
        if self.kind == "synthetic" and not self.model:
            raise BadInputError("weight reference", "is missing", field="model")
        if self.kind != "synthetic" and not self.path:
            raise BadInputError("weight reference", "is missing", field="path")

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
                raise BadInputError("weight reference", "is missing", field=key)
        return WeightRef(data["kind"], data["model"], data["path"], int(data["seed"]))
