"""Shapes of models: presets, config.json of Hugging Face, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest

from chipmark_models.config import ModelConfig, RopeScaling
from chipmark_models.costs import parameters
from chipmark_models.errors import BadInputError, ChipmarkError, UnknownNameError
from chipmark_models.families import FAMILIES
from chipmark_models.presets import PRESETS, SOURCES, preset

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    config = preset(name)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert name in SOURCES


# Parameter counts as published on the models' pages.
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("smollm2-135m", 134.5),
        ("qwen3-0.6b", 596.0),
        ("qwen3-1.7b", 1_720.6),
        ("qwen3-8b", 8_190.7),
        ("llama-3.2-1b", 1_235.8),
        ("llama-3.1-8b", 8_030.3),
        ("ernie-4.5-0.3b", 360.7),
    ],
)
def test_presets_have_the_published_parameter_counts(name: str, millions: float) -> None:
    assert parameters(preset(name)) / 1e6 == pytest.approx(millions, abs=0.1)


def test_tiny_is_awkward_on_purpose() -> None:
    tiny = preset("tiny")
    assert tiny.n_heads // tiny.n_kv_heads == 3
    assert tiny.q_size != tiny.hidden_size


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"smollm2-135m") as caught:
        preset("smolm2-135m")
    assert caught.value.exit_code == 2


def test_defaults_follow_transformers() -> None:
    config = ModelConfig.from_hf(LLAMA, "x")
    assert config.n_kv_heads == 4
    assert config.head_dim == 16
    assert config.rope_theta == 10_000.0
    assert not config.tied_embeddings
    assert config.eos_ids == (2,)


def test_both_spellings_of_rope_scaling_are_read() -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    old = ModelConfig.from_hf(LLAMA | {"rope_theta": 5e5, "rope_scaling": scaling}, "x")
    new = ModelConfig.from_hf(LLAMA | {"rope_parameters": scaling | {"rope_theta": 5e5}}, "x")
    assert old == new
    assert old.rope_theta == 5e5
    assert old.rope_scaling == RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model_type": "gpt2"}, "model_type"),
        ({"vocab_size": None}, "vocab_size"),
        ({"hidden_size": -64}, "hidden_size"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"num_hidden_layers": 10**9}, "n_layers"),
        ({"num_attention_heads": 5}, "num_attention_heads"),
        ({"num_key_value_heads": 3}, "n_kv_heads"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"eos_token_id": [1, "2"]}, "eos_token_id"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling.rope_type"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "low_freq_factor"),
        ({"rope_scaling": "llama3"}, "rope_scaling"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        (
            {"model_type": "mistral", "sliding_window": 128, "num_key_value_heads": 2},
            "sliding_window",
        ),
        ({"rope_scaling": {"factor": 4.0}}, "rope_scaling.factor"),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "partial_rot",
        ),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "full_attention"),
        ({"rope_scaling": {"mrope_section": [8, 4, 4]}}, "rope_scaling.mrope_section"),
        (
            {"rope_scaling": {"type": "linear"}, "rope_parameters": {"rope_theta": 1e6}},
            "contradicts rope_parameters",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rotary_pct": 0.25}, "rotary_pct"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"logits_scaling": 8.0}, "logits_scaling"),
        ({"residual_multiplier": 0.22}, "residual_multiplier"),
        ({"embedding_multiplier": 12.0}, "embedding_multiplier"),
        ({"num_local_experts": 8}, "num_local_experts"),
        ({"use_qk_norm": True}, "use_qk_norm"),
        ({"model_type": "qwen3", "num_key_value_heads": 2, "use_qk_norm": False}, "use_qk_norm"),
        ({"use_bias": True}, "use_bias"),
        (
            {"model_type": "mistral", "num_key_value_heads": 2, "attention_bias": True},
            "attention_b",
        ),
        ({"is_causal": False}, "is_causal"),
        ({"no_rope_layers": [1, 0]}, "no_rope_layers"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "layer_types"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"sliding_window": 128}, "sliding_window"),
        ({"rms_norm_eps": None}, "rms_norm_eps"),
        ({"max_position_embeddings": None}, "max_position_embeddings"),
    ],
)
def test_a_bad_field_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(BadInputError) as caught:
        ModelConfig.from_hf(LLAMA | change, "x", "folder/config.json")
    assert field in str(caught.value)


def test_a_window_as_wide_as_the_context_is_no_window_at_all() -> None:
    config = ModelConfig.from_hf(
        LLAMA | {"model_type": "mistral", "sliding_window": 512, "num_key_value_heads": 2}, "x"
    )
    assert config.sliding_window == 512


QWEN2: dict[str, Any] = LLAMA | {
    "model_type": "qwen2",
    "num_key_value_heads": 2,
    "use_sliding_window": True,
    "sliding_window": 128,
}


@pytest.mark.parametrize(
    "change",
    [
        {"use_sliding_window": False},
        {"max_window_layers": 2},
        {"max_window_layers": 28},
        {},  # max_window_layers is 28 where it is missing
        {"layer_types": ["full_attention"] * 2, "max_window_layers": 0},
        {"sliding_window": None, "max_window_layers": 0},
    ],
)
def test_a_window_that_no_layer_has_is_none(change: dict[str, Any]) -> None:
    assert ModelConfig.from_hf(QWEN2 | change, "x").sliding_window is None


@pytest.mark.parametrize(
    "change",
    [
        {"max_window_layers": 1},
        {"layer_types": ["full_attention", "sliding_attention"], "max_window_layers": 2},
    ],
)
def test_a_window_that_one_layer_has_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadInputError, match="field 'sliding_window': 128 is below the context"):
        ModelConfig.from_hf(QWEN2 | change, "x")


def test_mistral_without_the_key_has_the_window_of_its_class() -> None:
    data = LLAMA | {"model_type": "mistral", "max_position_embeddings": 8192}
    data["num_key_value_heads"] = 2
    with pytest.raises(
        BadInputError, match="field 'sliding_window': 4096 is below the context of 8192"
    ):
        ModelConfig.from_hf(data, "x")
    assert ModelConfig.from_hf(data | {"sliding_window": None}, "x").sliding_window is None


def test_a_first_generation_llama_has_the_context_of_its_class() -> None:
    data = {k: v for k, v in LLAMA.items() if k != "max_position_embeddings"}
    config = ModelConfig.from_hf(data | {"max_sequence_length": 512, "pad_token_id": -1}, "x")
    assert config.max_context == 2048


@pytest.mark.long
def test_defaults_are_those_of_the_classes_of_transformers() -> None:
    pytest.importorskip("transformers")
    code = (
        "import json, sys, transformers\n"
        "found = {}\n"
        "for family, keys in json.loads(sys.argv[1]).items():\n"
        "    kind = type(transformers.AutoConfig.for_model(family))\n"
        "    found[family] = {k: getattr(kind, k, None) for k in keys}\n"
        "    found[family]['rope_theta'] = kind.default_theta\n"
        "print(json.dumps(found))\n"
    )
    command = [
        sys.executable,
        "-c",
        code,
        json.dumps({k: list(f.defaults) for f in FAMILIES.values() for k in f.model_types}),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert theirs == {k: dict(f.defaults) for f in FAMILIES.values() for k in f.model_types}


def test_the_original_context_of_llama3_may_be_missing() -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
    config = ModelConfig.from_hf(LLAMA | {"rope_scaling": scaling}, "x")
    assert config.rope_scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, 512)
    key = "original_max_position_embeddings"
    both = LLAMA | {key: 64, "rope_scaling": scaling | {key: 32}}
    with pytest.raises(BadInputError, match=f"field '{key}': 64 contradicts 32"):
        ModelConfig.from_hf(both, "x")


def test_values_without_effect_are_read() -> None:
    data = LLAMA | {
        "hidden_act": "swish",
        "partial_rotary_factor": 1.0,
        "num_experts": 0,
        "attn_logit_softcapping": None,
        "logit_scale": 1.0,
        "attention_bias": False,
        "rope_parameters": {"rope_type": "default", "factor": 1.0, "rope_theta": 5e5},
    }
    assert ModelConfig.from_hf(data, "x").rope_theta == 5e5


def test_a_stored_config_with_another_field_is_refused() -> None:
    data = preset("tiny").to_dict()
    with pytest.raises(UnknownNameError, match="n_layers"):
        ModelConfig.from_dict(data | {"n_layer": 3})
    del data["vocab_size"]
    with pytest.raises(BadInputError, match="vocab_size"):
        ModelConfig.from_dict(data)


def test_an_odd_head_is_refused() -> None:
    with pytest.raises(BadInputError, match="head_dim"):
        dataclasses.replace(preset("tiny"), head_dim=15)


def test_a_hint_is_shown_below_the_message() -> None:
    assert str(ChipmarkError("what", "do this")) == "what\ndo this"


def test_shapes_costs_and_weights_load_no_heavy_package() -> None:
    code = (
        "import sys, chipmark_models.config, chipmark_models.presets, chipmark_models.costs\n"
        "assert 'numpy' not in sys.modules\n"
        "import chipmark_models.rope, chipmark_models.weights.source as s\n"
        "import chipmark_models.weights.open as o\n"
        "import chipmark_models.weights.prepared, chipmark_models.pull, chipmark_models.tokenizer\n"
        "import chipmark_models.chat_template\n"
        "o.open_weights(s.WeightRef('synthetic', 'tiny', None, 0)).read('model.norm.weight')\n"
        "heavy = {'torch', 'onnxruntime', 'triton', 'gguf', 'tokenizers', 'jinja2', 'chipmark',"
        " 'pandas', 'scipy', 'pyarrow', 'pydantic', 'safetensors'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
