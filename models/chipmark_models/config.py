"""The shape of a decoder-only language model, and how it is read from a `config.json`.

Field names follow the papers, not one library; `from_hf` maps the names of Hugging Face.
Needs the standard library only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from chipmark_models.errors import BadInputError, UnknownNameError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "ernie4_5")


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
        if self.family not in FAMILIES:
            raise UnknownNameError("model family", self.family, FAMILIES)
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
            raise BadInputError(where, "is lacking", field=key)
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

        Raises BadInputError naming `path` and the field that is lacking, wrong or not supported.
        """
        return _HfReader(data, name, path).config()


_POSITIVE = (
    "vocab_size", "hidden_size", "intermediate_size", "n_layers", "n_heads", "n_kv_heads",
    "head_dim", "max_context",
)  # fmt: skip

# Far above any model: a damaged file must not make the list of tensors fill the memory.
_LIMITS = {"n_layers": 2_000}


class _HfReader:
    """Reads one `config.json`; defaults are those of the transformers classes of each family."""

    def __init__(self, data: Mapping[str, Any], name: str, path: object) -> None:
        self.data, self.name, self.path = data, name, path

    def config(self) -> ModelConfig:
        family = self.data.get("model_type")
        if family not in FAMILIES:
            problem = "is lacking" if family is None else f"{family!r} is not supported"
            raise self._bad("model_type", f"{problem}; supported: {', '.join(FAMILIES)}")
        if self.data.get("quantization_config"):
            raise self._bad(
                "quantization_config", "quantised safetensors are not read; use the source weights"
            )
        act = self.data.get("hidden_act", "silu")
        if act != "silu":
            raise self._bad("hidden_act", f"{act!r} is not supported; only silu")
        hidden, heads = self._int("hidden_size"), self._int("num_attention_heads")
        if self.data.get("head_dim") is None and hidden % heads:
            raise self._bad("num_attention_heads", f"{heads} does not divide hidden_size {hidden}")
        theta, scaling = self._rope()
        bias = self._bool("use_bias" if family == "ernie4_5" else "attention_bias", False)
        out_bias = bias and family != "qwen2"
        return ModelConfig(
            name=self.name,
            family=cast(str, family),
            vocab_size=self._int("vocab_size"),
            hidden_size=hidden,
            intermediate_size=self._int("intermediate_size"),
            n_layers=self._int("num_hidden_layers"),
            n_heads=heads,
            n_kv_heads=self._int("num_key_value_heads", heads),
            head_dim=self._int(
                "head_dim", 128 if family in ("qwen3", "ernie4_5") else hidden // heads
            ),
            rms_eps=self._float("rms_norm_eps", 1e-5 if family == "ernie4_5" else 1e-6),
            rope_theta=theta,
            rope_scaling=scaling,
            rope_interleaved=family == "ernie4_5",
            tied_embeddings=self._bool("tie_word_embeddings", family == "ernie4_5"),
            qkv_bias=family == "qwen2" or bias,
            attn_out_bias=out_bias,
            mlp_bias=bias if family == "ernie4_5" else self._bool("mlp_bias", False),
            qk_norm=family == "qwen3",
            max_context=self._int("max_position_embeddings"),
            sliding_window=self._sliding_window(cast(str, family)),
            bos_id=self._token_ids("bos_token_id", (1,))[0],
            eos_ids=self._token_ids("eos_token_id", (2,)),
        )

    def _bad(self, field: str, problem: str) -> BadInputError:
        return BadInputError(self.path, problem, field=field)

    def _int(self, field: str, default: int | None = None) -> int:
        value = self.data.get(field)
        if value is None:
            if default is None:
                raise self._bad(field, "is lacking")
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise self._bad(field, f"must be a positive integer, not {value!r}")
        return value

    def _float(self, field: str, default: float, data: Mapping[str, Any] | None = None) -> float:
        value = (self.data if data is None else data).get(field)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise self._bad(field, f"must be a number above zero, not {value!r}")
        return float(value)

    def _bool(self, field: str, default: bool) -> bool:
        value = self.data.get(field)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._bad(field, f"must be true or false, not {value!r}")
        return value

    def _token_ids(self, field: str, default: tuple[int, ...]) -> tuple[int, ...]:
        value = self.data.get(field)
        if value is None:
            return default
        ids = value if isinstance(value, list) else [value]
        if not ids or any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in ids):
            raise self._bad(field, f"must be a token id or a list of them, not {value!r}")
        return tuple(ids)

    def _sliding_window(self, family: str) -> int | None:
        window = self.data.get("sliding_window")
        if window is None or (family != "mistral" and not self._bool("use_sliding_window", False)):
            return None
        return self._int("sliding_window")

    def _rope(self) -> tuple[float, RopeScaling | None]:
        # transformers 5 writes both theta and scaling into `rope_parameters`.
        field = "rope_parameters" if self.data.get("rope_parameters") else "rope_scaling"
        given = self.data.get(field) or {}
        if not isinstance(given, Mapping):
            raise self._bad(field, f"must be an object, not {given!r}")
        default = 500_000.0 if self.data.get("model_type") == "ernie4_5" else 10_000.0
        theta = self._float("rope_theta", self._float("rope_theta", default), given)
        kind = given.get("rope_type", given.get("type", "default"))
        if kind == "default":
            return theta, None
        if kind != "llama3":
            raise self._bad(f"{field}.rope_type", f"{kind!r} is not supported; only llama3")
        for key in ("factor", "low_freq_factor", "high_freq_factor"):
            if not isinstance(given.get(key), (int, float)):
                raise self._bad(f"{field}.{key}", "is lacking or no number")
        original = given.get("original_max_position_embeddings")
        if not isinstance(original, int) or original <= 0:
            raise self._bad(f"{field}.original_max_position_embeddings", "is lacking or wrong")
        return theta, RopeScaling(
            "llama3",
            float(given["factor"]),
            float(given["low_freq_factor"]),
            float(given["high_freq_factor"]),
            original,
        )
