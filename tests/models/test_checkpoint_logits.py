"""Folders as they are published: the logits that transformers has of the same files."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chipmark_models.config import ModelConfig
from chipmark_models.tensors import EMBEDDING, HEAD
from chipmark_models.weights.checkpoint import SafetensorsWeights
from chipmark_models.weights.synthetic import SyntheticWeights

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
save_file = pytest.importorskip("safetensors.numpy").save_file

from chipmark_models.oracle import Oracle  # noqa: E402

Tensors = dict[str, np.ndarray]

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 97,
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MISTRAL = {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"} | {
    "model_type": "mistral", "num_attention_heads": 8, "sliding_window": None,
}  # fmt: skip
QWEN2 = LLAMA | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8}


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k not in keys}


def bare(tensors: Tensors) -> Tensors:
    return {name.removeprefix("model."): array for name, array in tensors.items()}


def head_alone(tensors: Tensors) -> Tensors:
    return {HEAD if name == EMBEDDING else name: array for name, array in tensors.items()}


def with_another_head(tensors: Tensors) -> Tensors:
    return tensors | {HEAD: tensors[EMBEDDING][::-1].copy()}


def as_is(tensors: Tensors) -> Tensors:
    return tensors


CASES = {
    "base-model-names": (LLAMA, bare),
    "tied-head-alone": (LLAMA, head_alone),
    "tied-with-another-head": (LLAMA, with_another_head),
    "first-generation": (
        without(LLAMA, "max_position_embeddings")
        | {"max_sequence_length": 512, "pad_token_id": -1},
        as_is,
    ),
    "class-defaults": (MISTRAL, as_is),
    "window-in-no-layer": (QWEN2 | {"max_window_layers": 2}, as_is),
    "layer-types-all-full": (QWEN2 | {"layer_types": ["full_attention"] * 2}, as_is),
    "type-and-theta-apart": (
        LLAMA | {"rope_theta": 5e5, "rope_scaling": {"rope_type": "default"}},
        as_is,
    ),
    "original-context-missing": (
        LLAMA
        | {
            "rope_scaling": {
                "type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            }
        },
        as_is,
    ),
}  # fmt: skip


def assert_same_logits(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, found = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
    assert not found["missing_keys"]
    source = SafetensorsWeights(folder)
    ids = np.arange(40) * 7 % 97
    ours = Oracle(source.config, source.read).logits([ids])[0]
    with torch.no_grad():
        theirs = model.eval()(torch.from_numpy(ids)[None]).logits[0].numpy()
    assert model.config.max_position_embeddings == source.config.max_context
    assert np.abs(theirs).max() > 2.0
    assert np.abs(ours - theirs).max() <= 1e-4


def tensors_of(config: dict[str, Any]) -> Tensors:
    weights = SyntheticWeights(ModelConfig.from_hf(config, "x"), 5)
    return {name: weights.read(name) for name in weights.names()}


@pytest.mark.parametrize("case", CASES)
def test_a_folder_gives_the_logits_that_transformers_gives(tmp_path: Path, case: str) -> None:
    config, stored = CASES[case]
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(stored(tensors_of(config)), tmp_path / "model.safetensors", {"format": "pt"})
    assert_same_logits(tmp_path)


@pytest.mark.parametrize("wrong", ["swapped", "entries-missing", "with-a-whole-file"])
def test_an_index_that_is_wrong_gives_the_logits_that_transformers_gives(
    tmp_path: Path, wrong: str
) -> None:
    tensors = tensors_of(LLAMA)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    names = list(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    places = {name: file for file, part in parts.items() for name in part}
    for file, part in parts.items():
        save_file({n: tensors[n] for n in part}, tmp_path / file, {"format": "pt"})
    if wrong == "swapped":
        other = {"a.safetensors": "b.safetensors", "b.safetensors": "a.safetensors"}
        places = {name: other[file] for name, file in places.items()}
    elif wrong == "entries-missing":
        places = {name: places[name] for name in names[:2]}
    else:
        newer = {name: array * 1.5 for name, array in tensors.items()}
        save_file(newer, tmp_path / "model.safetensors", {"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_same_logits(tmp_path)
