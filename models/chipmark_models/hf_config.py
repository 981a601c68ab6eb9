"""A Hugging Face `config.json` as a ModelConfig, and what is refused by its key.

A field that is missing has the default of its class in transformers 5; a field that asks for a
computation that no family here does is refused, whether or not transformers would pass over it.
Needs the standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from chipmark_models.config import ModelConfig, RopeScaling
from chipmark_models.errors import BadInputError
from chipmark_models.families import Bias, Window, by_model_type

_MOST = 1e30
"""Far above any number of a config: what is computed of it stays finite."""

_MAY_BE_NULL = ("num_key_value_heads", "head_dim", "sliding_window")
_OFF = (None, False, 0)
# Key -> values at which it changes nothing. At another value some model computes by it, and no
# family here does.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    dict.fromkeys(
        (
            "compression_config", "quantization", "use_bidirectional_attention",
            "is_encoder_decoder", "add_cross_attention", "attn_logit_softcapping",
            "final_logit_softcapping", "router_logit_softcapping", "logit_softcapping",
            "attention_softcap", "num_experts", "num_local_experts", "n_routed_experts",
            "moe_num_experts", "num_experts_per_tok", "n_shared_experts", "clip_qkv", "alibi",
            "use_alibi", "use_logn_attn", "use_dynamic_ntk", "no_rope_layers",
            "no_rope_layer_interval", "nope_layer_interval", "rope_interleave",
            "rope_local_base_freq", "global_rope_theta", "local_rope_theta",
            "attn_temperature_tuning", "attention_chunk_size", "sliding_window_pattern",
            "kv_lora_rank", "q_lora_rank", "use_parallel_residual", "parallel_attn",
            "use_mup", "attention_sink", "num_kv_shared_layers", "cla_share_factor",
        ),
        _OFF,
    )
    | dict.fromkeys(
        (
            "partial_rotary_factor", "rotary_pct", "rope_pct", "rotary_percent", "logit_scale",
            "logits_scaling", "residual_multiplier", "residual_scale", "embedding_multiplier",
            "embedding_scale", "scale_emb", "scale_depth", "rope_scaling_factor", "rope_ratio",
            "lm_head_multiplier", "key_multiplier",
        ),
        (None, 1),
    )
    | {"is_causal": (None, True)}
)  # fmt: skip
_QK_NORM_KEYS = ("use_qk_norm", "qk_norm", "qk_layernorm", "use_qk_layernorm")
_EVERY_BIAS_KEY = ("attention_bias", "mlp_bias", "use_bias", "qkv_bias", "add_bias", "bias")
_ROPE_KEYS = ("rope_type", "type", "rope_theta")
_LLAMA3_KEYS = (
    "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
)  # fmt: skip


def config_from_hf(data: Mapping[str, Any], name: str, path: object) -> ModelConfig:
    """The shape in the dict of a `config.json` at `path`; see `ModelConfig.from_hf`."""
    return _Reader(data, name, path).config()


class _Reader:
    """Reads one `config.json`."""

    def __init__(self, data: Mapping[str, Any], name: str, path: object) -> None:
        self.data, self.name, self.path = data, name, path
        kind = data.get("model_type")
        known = by_model_type()
        if not isinstance(kind, str) or kind not in known:
            problem = "is missing" if kind is None else f"{kind!r} is not supported"
            raise self._bad("model_type", f"{problem}; supported: {', '.join(known)}")
        self.family = known[kind]

    def config(self) -> ModelConfig:
        self._refuse_what_is_not_computed()
        hidden, heads = self._int("hidden_size"), self._int("num_attention_heads")
        head_dim = self._optional_int("head_dim")
        if head_dim is None and hidden % heads:
            raise self._bad("num_attention_heads", f"{heads} does not divide hidden_size {hidden}")
        max_context = self._int("max_position_embeddings")
        theta, scaling = self._rope(max_context)
        layers = self._int("num_hidden_layers")
        family, biases = self.family, self._biases()
        return ModelConfig(
            name=self.name,
            family=family.name,
            vocab_size=self._int("vocab_size"),
            hidden_size=hidden,
            intermediate_size=self._int("intermediate_size"),
            n_layers=layers,
            n_heads=heads,
            n_kv_heads=self._optional_int("num_key_value_heads") or heads,
            head_dim=head_dim or hidden // heads,
            rms_eps=self._positive("rms_norm_eps", self._value("rms_norm_eps")),
            rope_theta=theta,
            rope_scaling=scaling,
            rope_interleaved=family.rope_interleaved,
            tied_embeddings=self._bool(
                "tie_word_embeddings", family.defaults["tie_word_embeddings"]
            ),
            qkv_bias=Bias.QKV in biases,
            attn_out_bias=Bias.OUT in biases,
            mlp_bias=Bias.MLP in biases,
            qk_norm=family.qk_norm,
            max_context=max_context,
            sliding_window=self._sliding_window(layers),
            bos_id=self._token_ids("bos_token_id", (1,))[0],
            eos_ids=self._token_ids("eos_token_id", (2,)),
        )

    def _refuse_what_is_not_computed(self) -> None:
        if self.data.get("quantization_config"):
            raise self._bad(
                "quantization_config", "quantised safetensors are not read; use the source weights"
            )
        act = self._value("hidden_act")
        family = self.family
        if act not in family.activations:
            raise self._bad("hidden_act", f"{act!r} is not supported; only silu")
        neutral = dict(_NEUTRAL) | {"hidden_activation": (None, *family.activations)}
        neutral |= {key: _OFF for key in _EVERY_BIAS_KEY if key not in family.bias_keys}
        if Bias.QKV in family.biases:
            neutral["qkv_bias"] = (None, True)
        neutral |= dict.fromkeys(_QK_NORM_KEYS, (None, family.qk_norm))
        for key, values in neutral.items():
            value = self.data.get(key)
            if value not in values and value not in ([], {}):
                raise self._bad(
                    key,
                    f"{value!r} is not computed for {family.name}; without effect: "
                    + " or ".join("null" if v is None else str(v) for v in values),
                )

    def _bad(self, field: str, problem: str) -> BadInputError:
        return BadInputError(self.path, problem, field=field)

    def _value(self, field: str) -> Any:
        """The field's value, or the default of its class where it is missing."""
        return self.data.get(field, self.family.defaults[field])

    def _int(self, field: str) -> int:
        value = self._value(field)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise self._bad(field, f"must be a positive integer, not {value!r}")
        return value

    def _optional_int(self, field: str) -> int | None:
        if self._value(field) is None and field in _MAY_BE_NULL:
            return None
        return self._int(field)

    def _positive(self, field: str, value: object) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < _MOST:  # type: ignore[operator]
            raise self._bad(field, f"must be a number above zero, not {value!r}")
        return float(value)  # type: ignore[arg-type]

    def _bool(self, field: str, default: bool) -> bool:
        value = self.data.get(field, default)
        if not isinstance(value, bool):
            raise self._bad(field, f"must be true or false, not {value!r}")
        return value

    def _biases(self) -> frozenset[Bias]:
        found = self.family.biases
        for key, switched in self.family.bias_keys.items():
            if self.data.get(key) is not None and self._bool(key, False):
                found |= switched
        return found

    def _token_ids(self, field: str, default: tuple[int, ...]) -> tuple[int, ...]:
        value = self.data.get(field)
        if value is None:
            return default
        ids = value if isinstance(value, list) else [value]
        if not ids or any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in ids):
            raise self._bad(field, f"must be a token id or a list of them, not {value!r}")
        return tuple(ids)

    def _sliding_window(self, layers: int) -> int | None:
        """The window of the layers that have one, None where all layers see the whole context."""
        types = self._layer_types(layers)
        if self.family.window is Window.BY_LAYER:
            on = self._bool("use_sliding_window", False)
            window = self._optional_int("sliding_window") if on else None
            if types is None:
                first = self.data.get("max_window_layers", 28)
                if isinstance(first, bool) or not isinstance(first, int):
                    raise self._bad("max_window_layers", f"must be an integer, not {first!r}")
                windowed = first < layers
            else:
                windowed = "sliding_attention" in types
                if windowed and window is None:
                    raise self._bad("layer_types", "has sliding_attention, but no sliding_window")
            return window if windowed else None
        if types is not None and "sliding_attention" in types:
            raise self._bad(
                "layer_types", f"sliding_attention is not computed for {self.family.name}"
            )
        off = self.data.get("use_sliding_window") is False
        if off and self.family.window is not Window.EVERY_LAYER:
            return None
        return self._optional_int("sliding_window")

    def _layer_types(self, layers: int) -> list[str] | None:
        types = self.data.get("layer_types")
        if types is None:
            return None
        if not isinstance(types, list) or len(types) != layers:
            raise self._bad("layer_types", f"must be a list of {layers} names")
        for kind in types:
            if kind not in ("full_attention", "sliding_attention"):
                raise self._bad("layer_types", f"{kind!r} is not computed")
        return types

    def _rope(self, max_context: int) -> tuple[float, RopeScaling | None]:
        # transformers 5 writes both theta and scaling into `rope_parameters`.
        given = {f: self.data[f] for f in ("rope_scaling", "rope_parameters") if self.data.get(f)}
        if len(given) == 2 and given["rope_scaling"] != given["rope_parameters"]:
            raise self._bad("rope_scaling", "contradicts rope_parameters; keep one of them")
        field, rope = next(iter(given.items()), ("rope_parameters", {}))
        if not isinstance(rope, Mapping):
            raise self._bad(field, f"must be an object, not {rope!r}")
        theta = rope.get(
            "rope_theta", self.data.get("rope_theta", self.family.defaults["rope_theta"])
        )
        base = self._positive("rope_theta", theta)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("default", "llama3"):
            raise self._bad(f"{field}.rope_type", f"{kind!r} is not supported; only llama3")
        self._no_other_rope_keys(field, rope, kind, max_context)
        if kind == "default":
            return base, None
        numbers = {}
        for key in ("factor", "low_freq_factor", "high_freq_factor"):
            value = rope.get(key)
            numbers[key] = self._positive(f"{field}.{key}", value)
        return base, RopeScaling(
            "llama3", **numbers, original_max_position=self._original(field, rope, max_context)
        )

    def _original(self, field: str, rope: Mapping[str, Any], max_context: int) -> int:
        """Context before the scaling; max_position_embeddings where it is missing."""
        key = "original_max_position_embeddings"
        found = [d[key] for d in (rope, self.data) if d.get(key) is not None] or [max_context]
        value = found[0]
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise self._bad(f"{field}.{key}", f"must be a positive integer, not {value!r}")
        if found[-1] != value:
            raise self._bad(key, f"{found[-1]!r} contradicts {value} in {field}")
        return value

    def _no_other_rope_keys(
        self, field: str, rope: Mapping[str, Any], kind: str, max_context: int
    ) -> None:
        known = _ROPE_KEYS + (_LLAMA3_KEYS if kind == "llama3" else ())
        neutral = {
            "factor": 1,
            "partial_rotary_factor": 1,
            "attention_factor": 1,
            "original_max_position_embeddings": max_context,
        }
        for key, value in rope.items():
            if key not in known and value is not None and value != neutral.get(key, ()):
                raise self._bad(
                    f"{field}.{key}",
                    f"{value!r} is not computed with the type {kind!r}",
                )
