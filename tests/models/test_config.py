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
        ({"model_type": "mistral", "sliding_window": 128}, "sliding_window"),
    ],
)
def test_a_bad_field_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(BadInputError) as caught:
        ModelConfig.from_hf(LLAMA | change, "x", "folder/config.json")
    assert field in str(caught.value)


def test_a_window_as_wide_as_the_context_is_no_window_at_all() -> None:
    config = ModelConfig.from_hf(LLAMA | {"model_type": "mistral", "sliding_window": 512}, "x")
    assert config.sliding_window == 512


def test_qwen_ignores_a_window_that_is_switched_off() -> None:
    data = LLAMA | {"model_type": "qwen2", "sliding_window": 128, "use_sliding_window": False}
    assert ModelConfig.from_hf(data, "x").sliding_window is None


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
        "import chipmark_models.weights.prepared, chipmark_models.pull, chipmark_models.tokenizer\n"
        "import chipmark_models.chat_template, chipmark_models.reference\n"
        "s.open_weights(s.WeightRef('synthetic', 'tiny', None, 0)).read('model.norm.weight')\n"
        "heavy = {'torch', 'onnxruntime', 'triton', 'gguf', 'tokenizers', 'jinja2', 'chipmark',"
        " 'pandas', 'scipy', 'pyarrow', 'pydantic', 'safetensors'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
