"""The shape from GGUF metadata, and what is refused by its key.

All keys below the architecture's name are hyperparameters, so one that is not known here may
change what the model computes, and is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from chipmark_models.config import ModelConfig, RopeScaling
from chipmark_models.errors import BadInputError
from chipmark_models.families import by_gguf_architecture
from chipmark_models.rope import inverse_frequencies

_END_KEYS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
ROPE_FACTORS = "rope_freqs.weight"

_READ_KEYS = (
    "context_length", "embedding_length", "block_count", "feed_forward_length",
    "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.value_length", "attention.layer_norm_rms_epsilon", "attention.sliding_window",
    "rope.dimension_count", "rope.freq_base", "rope.scaling.type",
)  # fmt: skip
# Without effect on the logits. The original context only matters to scalings that are refused.
_IDLE_KEYS = (
    "vocab_size", "tensor_data_layout", "pooling_type", "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
)  # fmt: skip
# Key -> values at which it changes nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = (
    dict.fromkeys(
        (
            "rope.scale_linear", "rope.scaling.factor", "rope.scaling.attn_factor",
            "rope.scaling.alpha", "logit_scale", "residual_scale", "embedding_scale",
        ),
        (0, 1),
    )
    | dict.fromkeys(
        (
            "attention.scale", "attn_logit_softcapping", "final_logit_softcapping",
            "expert_count", "expert_used_count", "expert_shared_count", "attention.clamp_kqv",
            "attention.max_alibi_bias", "use_parallel_residual", "leading_dense_block_count",
        ),
        (0,),
    )
    | {"attention.causal": (True,)}
)  # fmt: skip


def config_from_fields(
    fields: dict[str, Any],
    name: str,
    path: object,
    *,
    vocab_size: int,
    tied: bool,
    biased: tuple[str, ...] = (),
) -> ModelConfig:
    """The shape from GGUF metadata; BadInputError names a key that is missing, or that asks
    for what is not computed here."""
    arch = fields.get("general.architecture")
    known = by_gguf_architecture()
    if not isinstance(arch, str) or arch not in known:
        raise BadInputError(
            path,
            f"{arch!r} is not supported; supported: {', '.join(known)}",
            field="general.architecture",
        )

    def number(key: str, default: float | None = None) -> Any:
        value = fields.get(key, default)
        if value is None:
            raise BadInputError(path, "is missing", field=key)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            raise BadInputError(path, f"must be one number, not {value!r}", field=key)
        return value

    def get(key: str, default: float | None = None) -> Any:
        return number(f"{arch}.{key}", default)

    heads, hidden = get("attention.head_count"), get("embedding_length")
    family = known[arch]
    _refuse_what_is_not_computed(fields, arch, path)
    head_dim = get("attention.key_length", hidden // max(heads, 1))
    for key in ("attention.value_length", "rope.dimension_count"):
        if get(key, head_dim) != head_dim:
            raise BadInputError(
                path, f"is not the key length of {head_dim}", field=f"{arch}.{key} = {get(key)}"
            )
    window = get("attention.sliding_window", 0)
    return ModelConfig(
        name=name,
        family=family.name,
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=get("feed_forward_length"),
        n_layers=get("block_count"),
        n_heads=heads,
        n_kv_heads=get("attention.head_count_kv", heads),
        head_dim=head_dim,
        rms_eps=_short_float(get("attention.layer_norm_rms_epsilon")),
        rope_theta=_short_float(get("rope.freq_base", 10_000.0)),
        rope_scaling=None,  # GgufWeights finds it in rope_freqs.weight
        rope_interleaved=family.rope_interleaved,
        tied_embeddings=tied,
        qkv_bias=any(".attn_q." in n for n in biased),
        attn_out_bias=any(".attn_output." in n for n in biased),
        mlp_bias=any(".ffn_up." in n for n in biased),
        qk_norm=family.qk_norm,
        max_context=get("context_length"),
        sliding_window=window or None,
        bos_id=number("tokenizer.ggml.bos_token_id", 1),
        eos_ids=tuple(dict.fromkeys(number(k) for k in _END_KEYS if k in fields)) or (2,),
    )


def _refuse_what_is_not_computed(fields: Mapping[str, Any], arch: str, path: object) -> None:
    kind = fields.get("general.type", "model")
    if kind != "model":
        raise BadInputError(path, f"{kind!r} is not a model", field="general.type")
    scaling = fields.get(f"{arch}.rope.scaling.type", "none")
    if scaling != "none":
        raise BadInputError(
            path, f"{scaling!r} is not supported", field=f"{arch}.rope.scaling.type"
        )
    for field, value in fields.items():
        prefix, _, key = field.partition(".")
        if prefix != arch or key in _READ_KEYS or key in _IDLE_KEYS:
            continue
        if key not in _NEUTRAL:
            raise BadInputError(
                path, f"{value!r}: the key is not known, and may change the results", field=field
            )
        if value not in _NEUTRAL[key]:
            without = " or ".join(str(v) for v in _NEUTRAL[key])
            raise BadInputError(
                path, f"{value!r} is not computed; without effect: {without}", field=field
            )


def _short_float(value: Any) -> float:
    # Metadata is float32: 1e-5 comes as 9.99999974e-06, and the shortest decimal gives it back.
    return float(str(np.float32(value)))


def rope_scaling_of(
    config: ModelConfig, factors: npt.NDArray[np.float64], path: object
) -> RopeScaling:
    """The Llama 3.1 scaling behind a file's `rope_freqs.weight`, divisors (head_dim / 2,).

    The file holds the divisors but not the rule; the rule of the public Llama 3 models is tried
    and must give these divisors to 1e-4, else BadInputError.
    """
    plain = inverse_frequencies(config)
    if factors.shape != plain.shape or not np.isfinite(factors).all():
        raise BadInputError(path, "is not the scaling of Llama 3.1", field=ROPE_FACTORS)
    scaling = RopeScaling("llama3", float(factors.max()), 1.0, 4.0, 8_192)
    scaled = inverse_frequencies(dataclasses.replace(config, rope_scaling=scaling))
    if not np.allclose(plain / scaled, factors, rtol=1e-4):
        raise BadInputError(path, "is not the scaling of Llama 3.1", field=ROPE_FACTORS)
    return scaling
