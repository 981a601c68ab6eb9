"""The families of models, each as data: what one has of its own, and how its files name it.

Common to all, and therefore no field: a dense decoder with RMS norms before attention and MLP,
rotary positions over the whole head, grouped-query attention, and SwiGLU. A family that differs
there needs code; docs/adding/model-family.md says where. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from chipmark_models.errors import UnknownNameError


class Bias(StrEnum):
    """Matrices that may have a bias."""

    QKV = "qkv"
    """Queries, keys and values."""

    OUT = "out"
    """Output of attention."""

    MLP = "mlp"
    """Gate, up and down."""


class Window(StrEnum):
    """What `sliding_window` of a `config.json` means."""

    EVERY_LAYER = "every layer"
    """A window in every layer, whatever `use_sliding_window` says."""

    BY_LAYER = "by layer"
    """A window where `use_sliding_window` is on, in the layers of `layer_types`, or from
    `max_window_layers`."""

    NOT_ITS_OWN = "not its own"
    """The family has no window: a given one is taken as one of every layer, unless
    `use_sliding_window` is off."""


@dataclass(frozen=True, slots=True)
class Family:
    """One family of models."""

    name: str
    """Its name in configs and records."""

    model_types: tuple[str, ...]
    """Values of `model_type` in a `config.json` that mean it."""

    defaults: Mapping[str, Any]
    """Defaults of its configuration class in transformers 5, by key; None: from other keys."""

    gguf_architectures: tuple[str, ...] = ()
    """Values of `general.architecture` in a GGUF file that mean it."""

    gguf_pairs_rows: bool = False
    """Whether GGUF files hold the rows of q and k in the order of interleaved rotary pairs."""

    rope_interleaved: bool = False
    """Whether rotary pairs are dimensions (2i, 2i + 1), else (i, i + head_dim / 2)."""

    qk_norm: bool = False
    """Whether each head of queries and keys has an RMS norm before it is rotated."""

    biases: frozenset[Bias] = frozenset()
    """Biases that every model of the family has."""

    bias_keys: Mapping[str, frozenset[Bias]] = field(default_factory=dict)
    """Keys of a `config.json` that switch biases on, and which; all other such keys are refused."""

    window: Window = Window.NOT_ITS_OWN
    """What `sliding_window` means."""

    activations: tuple[str, ...] = ("silu", "swish")
    """Values of `hidden_act` that mean SwiGLU: two names of one function in transformers."""

    tensor_names: Mapping[str, str] = field(default_factory=dict)
    """Modules that its safetensors name otherwise than `tensors` does, by their name there
    ("attention.wo": "self_attn.o_proj"); empty where the names are those of Llama."""


_LLAMA: Mapping[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 4_096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2_048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10_000.0,
    "sliding_window": None,
}
_QWEN2 = {
    **_LLAMA,
    "vocab_size": 151_936,
    "intermediate_size": 22_016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
    "sliding_window": 4_096,
}
_ATTENTION = frozenset({Bias.QKV, Bias.OUT})

_ENTRIES = (
    Family(
        name="llama",
        model_types=("llama",),
        defaults=_LLAMA,
        gguf_architectures=("llama",),
        gguf_pairs_rows=True,
        bias_keys={"attention_bias": _ATTENTION, "mlp_bias": frozenset({Bias.MLP})},
    ),
    Family(
        name="mistral",
        model_types=("mistral",),
        defaults={
            **_LLAMA,
            "intermediate_size": 14_336,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131_072,
            "sliding_window": 4_096,
        },
        # llama.cpp files Mistral models under "llama".
        window=Window.EVERY_LAYER,
    ),
    Family(
        name="qwen2",
        model_types=("qwen2",),
        defaults=_QWEN2,
        gguf_architectures=("qwen2",),
        biases=frozenset({Bias.QKV}),
        window=Window.BY_LAYER,
    ),
    Family(
        name="qwen3",
        model_types=("qwen3",),
        defaults={**_QWEN2, "head_dim": 128},
        gguf_architectures=("qwen3",),
        qk_norm=True,
        bias_keys={"attention_bias": _ATTENTION},
        window=Window.BY_LAYER,
    ),
    Family(
        name="ernie4_5",
        model_types=("ernie4_5",),
        defaults={
            **_LLAMA,
            "vocab_size": 103_424,
            "hidden_size": 1_024,
            "intermediate_size": 3_072,
            "num_hidden_layers": 18,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
            "rope_theta": 500_000.0,
        },
        gguf_architectures=("ernie4_5",),
        rope_interleaved=True,
        bias_keys={"use_bias": frozenset(Bias)},
    ),
)

FAMILIES: Mapping[str, Family] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Every family by its name."""


def family_named(name: str) -> Family:
    """The family of a config; UnknownNameError with the nearest names."""
    if name not in FAMILIES:
        raise UnknownNameError("model family", name, FAMILIES)
    return FAMILIES[name]


def by_model_type() -> dict[str, Family]:
    """Each family by what `model_type` of a `config.json` may say."""
    return {kind: family for family in FAMILIES.values() for kind in family.model_types}


def by_gguf_architecture() -> dict[str, Family]:
    """Each family by what `general.architecture` of a GGUF file may say."""
    return {kind: family for family in FAMILIES.values() for kind in family.gguf_architectures}
