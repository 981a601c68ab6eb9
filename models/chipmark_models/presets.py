"""Model shapes by name; each names the public model whose `config.json` it repeats."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from chipmark_models.config import ModelConfig, RopeScaling
from chipmark_models.errors import UnknownNameError
from chipmark_models.families import Bias, family_named


def _config(name: str, family: str, **fields: Any) -> ModelConfig:
    traits = family_named(family)
    base: dict[str, Any] = {
        "rms_eps": 1e-5,
        "rope_scaling": None,
        "rope_interleaved": traits.rope_interleaved,
        "tied_embeddings": True,
        "qkv_bias": Bias.QKV in traits.biases,
        "attn_out_bias": False,
        "mlp_bias": False,
        "qk_norm": traits.qk_norm,
        "sliding_window": None,
    }
    return ModelConfig(name=name, family=family, **(base | fields))


_QWEN3: dict[str, Any] = {
    "vocab_size": 151_936,
    "n_kv_heads": 8,
    "head_dim": 128,
    "rms_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "max_context": 40_960,
    "bos_id": 151_643,
    "eos_ids": (151_645, 151_643),
}
_LLAMA3: dict[str, Any] = {
    "vocab_size": 128_256,
    "n_heads": 32,
    "n_kv_heads": 8,
    "rope_theta": 500_000.0,
    "max_context": 131_072,
    "bos_id": 128_000,
    "eos_ids": (128_001, 128_008, 128_009),
}

# Public model whose config.json gives the shape; "" is a shape of our own.
SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "tiny": "",
        "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "qwen3-0.6b": "Qwen/Qwen3-0.6B",
        "qwen3-1.7b": "Qwen/Qwen3-1.7B",
        "qwen3-8b": "Qwen/Qwen3-8B",
        "llama-3.2-1b": "meta-llama/Llama-3.2-1B-Instruct",
        "llama-3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
        "ernie-4.5-0.3b": "baidu/ERNIE-4.5-0.3B-PT",
    }
)

PRESETS: Mapping[str, ModelConfig] = MappingProxyType(
    {
        # Odd sizes on purpose: 3 query heads a KV head, widths that are not powers of two.
        "tiny": _config(
            "tiny",
            "llama",
            vocab_size=512,
            hidden_size=64,
            intermediate_size=176,
            n_layers=3,
            n_heads=6,
            n_kv_heads=2,
            head_dim=16,
            rope_theta=10_000.0,
            max_context=131_072,
            bos_id=1,
            eos_ids=(2,),
        ),
        "smollm2-135m": _config(
            "smollm2-135m",
            "llama",
            vocab_size=49_152,
            hidden_size=576,
            intermediate_size=1_536,
            n_layers=30,
            n_heads=9,
            n_kv_heads=3,
            head_dim=64,
            rope_theta=100_000.0,
            max_context=8_192,
            bos_id=1,
            eos_ids=(2,),
        ),
        "qwen3-0.6b": _config(
            "qwen3-0.6b",
            "qwen3",
            hidden_size=1_024,
            intermediate_size=3_072,
            n_layers=28,
            n_heads=16,
            **_QWEN3,
        ),
        "qwen3-1.7b": _config(
            "qwen3-1.7b",
            "qwen3",
            hidden_size=2_048,
            intermediate_size=6_144,
            n_layers=28,
            n_heads=16,
            **_QWEN3,
        ),
        "qwen3-8b": _config(
            "qwen3-8b",
            "qwen3",
            hidden_size=4_096,
            intermediate_size=12_288,
            n_layers=36,
            n_heads=32,
            tied_embeddings=False,
            **_QWEN3,
        ),
        "llama-3.2-1b": _config(
            "llama-3.2-1b",
            "llama",
            hidden_size=2_048,
            intermediate_size=8_192,
            n_layers=16,
            head_dim=64,
            rope_scaling=RopeScaling("llama3", 32.0, 1.0, 4.0, 8_192),
            **_LLAMA3,
        ),
        "llama-3.1-8b": _config(
            "llama-3.1-8b",
            "llama",
            hidden_size=4_096,
            intermediate_size=14_336,
            n_layers=32,
            head_dim=128,
            tied_embeddings=False,
            rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 8_192),
            **_LLAMA3,
        ),
        "ernie-4.5-0.3b": _config(
            "ernie-4.5-0.3b",
            "ernie4_5",
            vocab_size=103_424,
            hidden_size=1_024,
            intermediate_size=3_072,
            n_layers=18,
            n_heads=16,
            n_kv_heads=2,
            head_dim=128,
            rope_theta=500_000.0,
            max_context=131_072,
            bos_id=1,
            eos_ids=(2,),
        ),
    }
)


def preset(name: str) -> ModelConfig:
    """The shape called `name`; raises UnknownNameError with the nearest names."""
    if name not in PRESETS:
        raise UnknownNameError("model", name, PRESETS)
    return PRESETS[name]
