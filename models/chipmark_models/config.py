"""The shape of a decoder-only language model, and how it is read from a `config.json`.

Field names follow the papers, not one library; `from_hf` maps the names of Hugging Face.
Needs the standard library only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chipmark_models.errors import BadInputError, UnknownNameError
from chipmark_models.families import family_named


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Frequency scaling of Llama 3.1 (`kind` "llama3"): low frequencies are divided by `factor`."""

    kind: str
    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A dense decoder with RMS norm, rotary positions, grouped-query attention and SwiGLU.

    `rope_interleaved` pairs dimensions (2i, 2i+1) (Ernie 4.5), else (i, i + head_dim/2).
    `qk_norm` is an RMS norm over head_dim of each query and key head before rotation (Qwen3).
    Raises BadInputError where the fields contradict each other.
    """

    name: str
    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    rms_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    rope_interleaved: bool
    tied_embeddings: bool
    qkv_bias: bool
    attn_out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    max_context: int
    sliding_window: int | None
    bos_id: int
    eos_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        where = f"model config {self.name!r}"
        family_named(self.family)
        for field in _POSITIVE:
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
                raise BadInputError(
                    where, f"must be a positive integer, not {value!r}", field=field
                )
            if value > _LIMITS.get(field, value):
                raise BadInputError(where, f"{value} is more than {_LIMITS[field]}", field=field)
        for field in ("rms_eps", "rope_theta"):
            if not getattr(self, field) > 0:
                raise BadInputError(where, "must be above zero", field=field)
        if self.n_heads % self.n_kv_heads:
            raise BadInputError(
                where,
                f"must divide n_heads = {self.n_heads}",
                field=f"n_kv_heads = {self.n_kv_heads}",
            )
        if self.head_dim % 2:
            raise BadInputError(where, "rotary positions need an even head_dim", field="head_dim")
        if self.sliding_window is not None and self.sliding_window < self.max_context:
            raise BadInputError(
                where,
                f"{self.sliding_window} is below the context of {self.max_context}; "
                "sliding-window attention is not computed here",
                field="sliding_window",
                hint=f"limit max_position_embeddings to {self.sliding_window} to use this model",
            )

    @property
    def q_size(self) -> int:
        """Width of all query heads together."""
        return self.n_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key (or value) heads together."""
        return self.n_kv_heads * self.head_dim

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` is its inverse."""
        data = dataclasses.asdict(self)
        data["eos_ids"] = list(self.eos_ids)
        return data

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> ModelConfig:
        """Inverse of `to_dict`; a lacking or unknown field is an error that names it."""
        where = f"model config {data.get('name', '?')!r}"
        fields = {f.name for f in dataclasses.fields(ModelConfig)}
        for key in data:
            if key not in fields:
                raise UnknownNameError(f"field of {where}", key, fields)
        for key in fields - set(data):
            raise BadInputError(where, "is missing", field=key)
        values = dict(data)
        values["eos_ids"] = tuple(int(i) for i in values["eos_ids"])
        if values["rope_scaling"] is not None:
            try:
                values["rope_scaling"] = RopeScaling(**values["rope_scaling"])
            except TypeError as exc:
                raise BadInputError(where, str(exc), field="rope_scaling") from exc
        return ModelConfig(**values)

    @staticmethod
    def from_hf(data: Mapping[str, Any], name: str, path: object = "config.json") -> ModelConfig:
        """Read the dict of a Hugging Face `config.json` (of transformers 4 or 5).

        A missing field has the default of its class in transformers. Raises BadInputError naming
        `path` and the field that is missing, wrong or asks for what is not computed here.
        """
        from chipmark_models.hf_config import config_from_hf  # it builds a ModelConfig

        return config_from_hf(data, name, path)


_POSITIVE = (
    "vocab_size", "hidden_size", "intermediate_size", "n_layers", "n_heads", "n_kv_heads",
    "head_dim", "max_context",
)  # fmt: skip

# Far above any model: a damaged file must not make the list of tensors fill the memory.
_LIMITS = {"n_layers": 2_000}
