"""The shape of a decoder-only language model, and how it is read from a `config.json`.

Field names follow the papers, not one library; `from_hf` maps the names of Hugging Face.
Needs the standard library only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chipmark_models.errors import BadInputError, UnknownNameError
from chipmark_models.families import family_named
from chipmark_models.plain_text import one_line


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Frequency scaling of Llama 3.1."""

    kind: str
    """What scales them: "llama3"."""

    factor: float
    """What low frequencies are divided by."""

    low_freq_factor: float
    """Turns within the original context below which a frequency is low."""

    high_freq_factor: float
    """Turns within the original context above which a frequency is kept."""

    original_max_position: int
    """The original context, tokens."""

    def __post_init__(self) -> None:
        for field in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position"):
            value = getattr(self, field)
            if not _is_number(value) or not 0 < value < 1 << 40:
                text = f"{value!r} is not a number above 0"
                raise BadInputError("rope scaling", text, field=field)
        if self.kind != "llama3":
            raise BadInputError("rope scaling", f"{self.kind!r} is not computed", field="kind")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A dense decoder with RMS norm, rotary positions, grouped-query attention and SwiGLU.

    Raises BadInputError where the fields contradict each other.
    """

    name: str
    """What the model is called in tables and records."""

    family: str
    """A name of `families.FAMILIES`."""

    vocab_size: int
    """Rows of the embedding and of the head."""

    hidden_size: int
    """Width of the residual stream."""

    intermediate_size: int
    """Width of the MLP between gate, up and down."""

    n_layers: int
    """Layers."""

    n_heads: int
    """Query heads."""

    n_kv_heads: int
    """Key-value heads; each serves n_heads / n_kv_heads query heads."""

    head_dim: int
    """Width of a head, even."""

    rms_eps: float
    """Added to the mean square in every norm."""

    rope_theta: float
    """Base of the rotary frequencies."""

    rope_scaling: RopeScaling | None
    """Scaling of the rotary frequencies, None for none."""

    rope_interleaved: bool
    """Whether pairs are dimensions (2i, 2i + 1) (Ernie 4.5), else (i, i + head_dim / 2)."""

    tied_embeddings: bool
    """Whether the head is the embedding."""

    qkv_bias: bool
    """Whether queries, keys and values have biases."""

    attn_out_bias: bool
    """Whether the output of attention has a bias."""

    mlp_bias: bool
    """Whether gate, up and down have biases."""

    qk_norm: bool
    """Whether each query and key head has an RMS norm over head_dim before rotation (Qwen3)."""

    max_context: int
    """Longest context, tokens."""

    sliding_window: int | None
    """Tokens that a layer sees; None for all. Below max_context it is refused."""

    bos_id: int
    """Token that starts a text."""

    eos_ids: tuple[int, ...]
    """Tokens that end one."""

    def __post_init__(self) -> None:
        where = f"model config {self.name!r}"
        self._check_types(where)
        family_named(self.family)
        for field in _POSITIVE:
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
                raise BadInputError(
                    where, f"must be a positive integer, not {value!r}", field=field
                )
            if value > _LIMITS[field]:
                raise BadInputError(where, f"{value} is more than {_LIMITS[field]}", field=field)
        for field in ("rms_eps", "rope_theta"):
            if not 0 < getattr(self, field) < math.inf:
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

    def _check_types(self, where: str) -> None:
        for field in ("name", "family"):
            if not isinstance(getattr(self, field), str):
                raise BadInputError(where, f"{getattr(self, field)!r} is not a text", field=field)
        for field in ("rms_eps", "rope_theta"):
            if not _is_number(getattr(self, field)):
                raise BadInputError(where, f"{getattr(self, field)!r} is not a number", field=field)
        for field in _FLAGS:
            if not isinstance(getattr(self, field), bool):
                text = f"{getattr(self, field)!r} is neither true nor false"
                raise BadInputError(where, text, field=field)
        ids = {"bos_id": (self.bos_id,), "eos_ids": self.eos_ids}
        for field, values in ids.items():
            if not all(type(value) is int and -1 <= value < 1 << 31 for value in values):
                raise BadInputError(where, "is not the id of a token", field=field)
        window = self.sliding_window
        if window is not None and (type(window) is not int or window < 1):
            raise BadInputError(where, f"{window!r} is not a count", field="sliding_window")

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
        """Inverse of `to_dict`; a missing or unknown field is an error that names it."""
        where = one_line(f"model config {data.get('name', '?')!r}", 100)
        fields = {f.name for f in dataclasses.fields(ModelConfig)}
        for key in data:
            if key not in fields:
                raise UnknownNameError(f"field of {where}", key, fields)
        for key in fields - set(data):
            raise BadInputError(where, "is missing", field=key)
        values = dict(data)
        if not isinstance(values["eos_ids"], list | tuple):
            raise BadInputError(where, "is not a list", field="eos_ids")
        values["eos_ids"] = tuple(values["eos_ids"])
        if (scaling := values["rope_scaling"]) is not None:
            try:
                values["rope_scaling"] = RopeScaling(**scaling)
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

_LIMITS = {
    "vocab_size": 1 << 24, "hidden_size": 1 << 20, "intermediate_size": 1 << 22, "n_layers": 2_000,
    "n_heads": 1 << 14, "n_kv_heads": 1 << 14, "head_dim": 1 << 14, "max_context": 1 << 30,
}  # fmt: skip
"""Far above any model: nothing may be allocated by a damaged file's word."""

_FLAGS = (
    "rope_interleaved", "tied_embeddings", "qkv_bias", "attn_out_bias", "mlp_bias", "qk_norm",
)  # fmt: skip


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
