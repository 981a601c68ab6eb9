"""Families as data: a new one of Llama's kind needs one entry, and no code asks for a name."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chipmark_models import families
from chipmark_models.config import ModelConfig
from chipmark_models.errors import UnknownNameError
from chipmark_models.families import FAMILIES, Bias, Family
from chipmark_models.presets import preset
from chipmark_models.weights.checkpoint import SafetensorsWeights
from chipmark_models.weights.synthetic import SyntheticWeights

ROOT = Path(__file__).parents[2]
CONFIG = {
    "model_type": "acme_v1", "vocab_size": 96, "hidden_size": 48, "intermediate_size": 80,
    "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "attn_bias": True, "hidden_act": "swiglu",
}  # fmt: skip


@pytest.fixture
def acme(monkeypatch: pytest.MonkeyPatch) -> Family:
    """A family of Llama's kind that no public model is of, with a trait of each kind."""
    entry = Family(
        name="acme",
        model_types=("acme_v1",),
        defaults={**FAMILIES["llama"].defaults, "rope_theta": 50_000.0},
        rope_interleaved=True,
        qk_norm=True,
        bias_keys={"attn_bias": frozenset({Bias.QKV})},
        activations=("swiglu",),
        tensor_names={"attention.wo": "self_attn.o_proj"},
    )
    monkeypatch.setattr(families, "FAMILIES", {**FAMILIES, entry.name: entry})
    return entry


@pytest.fixture
def folder(acme: Family, tmp_path: Path) -> Path:
    save_file = pytest.importorskip("safetensors.numpy").save_file
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    made = SyntheticWeights(ModelConfig.from_hf(CONFIG, "acme"), 0)
    tensors = {n.replace("self_attn.o_proj", "attention.wo"): made.read(n) for n in made.names()}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def test_a_config_is_read_by_the_traits_of_its_family(folder: Path) -> None:
    config = SafetensorsWeights(folder).config
    assert (config.family, config.rope_theta) == ("acme", 50_000.0)
    assert config.rope_interleaved
    assert config.qk_norm
    assert config.qkv_bias
    assert not config.attn_out_bias
    assert not config.mlp_bias
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_tensors_are_found_under_the_names_of_the_family(folder: Path) -> None:
    source = SafetensorsWeights(folder)
    made = SyntheticWeights(source.config, 0)
    for name in source.names():
        np.testing.assert_array_equal(source.read(name), made.read(name), err_msg=name)


def test_its_decoder_computes_what_the_oracle_does(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    from chipmark_models.decoder.slots.decoder import Decoder
    from chipmark_models.decoder.slots.kv import Span
    from chipmark_models.oracle import Oracle
    from chipmark_models.weights.prepared import ComputedWeights

    weights = ComputedWeights(SafetensorsWeights(folder), "fp32")
    ids = np.random.default_rng(1).integers(0, 96, 20)
    expected = Oracle(weights.config, weights.float32).logits([ids])[0]
    decoder = Decoder(weights, torch.device("cpu"), n_slots=1, max_context=32)
    for start, stop in ((0, 12), (12, 19), (19, 20)):
        got = decoder.forward(ids[start:stop], [Span(0, start, stop - start, 0)], [0])
        np.testing.assert_allclose(got.numpy()[0], expected[stop - 1], rtol=1e-4, atol=1e-4)


def test_the_entry_is_what_makes_it_known() -> None:
    with pytest.raises(UnknownNameError, match="model family"):
        replace(preset("tiny"), family="acme")


def test_what_files_say_names_one_family() -> None:
    types = [kind for family in FAMILIES.values() for kind in family.model_types]
    architectures = [kind for family in FAMILIES.values() for kind in family.gguf_architectures]
    assert len(set(types)) == len(types)
    assert len(set(architectures)) == len(architectures)


def test_no_code_compares_a_family_by_name() -> None:
    """Everything else asks fields of the entry, or a new family would need code."""
    names = set(FAMILIES)
    for path in sorted((ROOT / "models").rglob("*.py")):
        if path.name == "families.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                parts = [node.left, *node.comparators]
                found = {n.value for p in parts for n in ast.walk(p) if isinstance(n, ast.Constant)}
                assert not found & names, f"{path}:{node.lineno}"
