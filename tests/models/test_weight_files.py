"""Safetensors folders and GGUF files: what is read, and what is refused before it is read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chipmark_models.config import ModelConfig
from chipmark_models.errors import BadInputError
from chipmark_models.presets import preset
from chipmark_models.weights.checkpoint import SafetensorsWeights
from chipmark_models.weights.open import open_weights
from chipmark_models.weights.plain import round_to
from chipmark_models.weights.safetensors_file import SafetensorsFile
from chipmark_models.weights.source import WeightRef
from chipmark_models.weights.synthetic import SyntheticWeights

TINY = dataclasses.replace(preset("tiny"), max_context=512)
SAFETENSORS_TYPE = {"<f4": "F32", "<f2": "F16", "<u2": "BF16"}


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": SAFETENSORS_TYPE[array.dtype.newbyteorder("<").str],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header).encode()
    data = b"".join(a.tobytes() for a in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def hf_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied_embeddings,
        "max_position_embeddings": config.max_context,
        "bos_token_id": config.bos_id,
        "eos_token_id": list(config.eos_ids),
    }


def model_folder(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf_config(TINY)))
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


@pytest.fixture(scope="module")
def weights() -> SyntheticWeights:
    return SyntheticWeights(TINY, 0)


@pytest.fixture(scope="module")
def tensors(weights: SyntheticWeights) -> dict[str, np.ndarray]:
    return {name: weights.read(name) for name in weights.names()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_folder_gives_its_weights(
    tmp_path: Path, tensors: dict[str, np.ndarray], precision: str
) -> None:
    folder = model_folder(tmp_path / "m", {n: round_to(a, precision) for n, a in tensors.items()})
    source = open_weights(WeightRef("safetensors", "tiny", str(folder), 0))
    assert source.config == TINY
    for name, array in tensors.items():
        np.testing.assert_array_equal(source.read(name), array)
        assert source.shape(name) == array.shape


def test_files_of_the_reference_implementation_are_read(
    tmp_path: Path, tensors: dict[str, np.ndarray]
) -> None:
    reference = pytest.importorskip("safetensors.numpy")
    folder = model_folder(tmp_path / "m", {})
    halves = {n: a.astype(np.float16) for n, a in tensors.items()}
    reference.save_file(halves, folder / "model.safetensors")
    source = SafetensorsWeights(folder)
    for name, array in halves.items():
        np.testing.assert_array_equal(source.read(name), array.astype(np.float32))


def test_shards_are_found_by_their_index(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    folder = model_folder(tmp_path / "m", {})
    (folder / "model.safetensors").unlink()
    names, places = list(tensors), {}
    for i, part in enumerate((names[:7], names[7:])):
        write_safetensors(folder / f"part-{i}.safetensors", {n: tensors[n] for n in part})
        places |= dict.fromkeys(part, f"part-{i}.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    source = SafetensorsWeights(folder)
    np.testing.assert_array_equal(source.read(names[-1]), tensors[names[-1]])
    first = source.hash
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(BadInputError, match=r"part-1\.safetensors: the shard is missing"):
        SafetensorsWeights(folder)
    index.write_text(json.dumps({"weight_map": {"a": "../part-0.safetensors"}}))
    with pytest.raises(BadInputError, match="leaves the folder"):
        SafetensorsWeights(folder)
    assert len(first) == 64


def test_the_hash_follows_the_bytes(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    first = SafetensorsWeights(model_folder(tmp_path / "a", tensors), "x").hash
    same = SafetensorsWeights(model_folder(tmp_path / "b", tensors), "y").hash
    changed = dict(tensors)
    changed["model.norm.weight"] = tensors["model.norm.weight"] + 1
    other = SafetensorsWeights(model_folder(tmp_path / "c", changed), "x").hash
    assert first == same != other


def test_a_cut_file_names_the_tensor(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    folder = model_folder(tmp_path / "m", tensors)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BadInputError, match=r"field 'model\.norm\.weight': .*cut short"):
        SafetensorsWeights(folder)


def test_a_lacking_tensor_is_named(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    lacking = "model.layers.1.mlp.up_proj.weight"
    folder = model_folder(tmp_path / "m", {n: a for n, a in tensors.items() if n != lacking})
    with pytest.raises(BadInputError, match=rf"field '{lacking}': the tensor is missing"):
        SafetensorsWeights(folder)


def header_bytes(header: object) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"\0" * 64


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "header's length"),
        (b"\xff" * 64, "header's length"),
        ((1000).to_bytes(8, "little") + b"{}", "cut short within the header"),
        (header_bytes(b"{no json"), "invalid JSON"),
        (header_bytes([1]), "not a JSON object"),
        (header_bytes(b'{"t": 1, "t": 2}'), "'t' stands twice"),
        (header_bytes({"t": {"dtype": "F32"}}), "field 't': bad header entry"),
        (header_bytes({"t": entry(dtype="F8_E5M2")}), "field 't': has type 'F8_E5M2'"),
        (header_bytes({"t": entry(shape=[-4])}), "negative"),
        (header_bytes({"t": entry(shape=[5])}), "its shape .* needs 20"),
        (header_bytes({"t": entry(data_offsets=[1 << 40, (1 << 40) + 16])}), "cut short"),
        (header_bytes({"a": entry(), "b": entry(data_offsets=[8, 24])}), "field 'b': overlaps"),
    ],
)
def test_a_broken_header_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=problem):
        SafetensorsFile(path)


def test_a_folder_without_a_config_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"config\.json: no such file"):
        SafetensorsWeights(tmp_path)


gguf = pytest.importorskip("gguf")

from chipmark_models.weights.gguf_file import GgufWeights  # noqa: E402

GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def interleave(array: np.ndarray, heads: int) -> np.ndarray:
    """What converters to the llama architecture do with the rows of q and k."""
    rows = array.shape[0]
    return array.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(array.shape)


def write_gguf(
    path: Path,
    weights: SyntheticWeights,
    *,
    skip: str = "",
    arch: str = "",
    extra: dict[str, np.ndarray] | None = None,
) -> Path:
    c = weights.config
    writer = gguf.GGUFWriter(str(path), arch or c.family)
    writer.add_block_count(c.n_layers)
    writer.add_context_length(c.max_context)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.n_heads)
    writer.add_head_count_kv(c.n_kv_heads)
    writer.add_key_length(c.head_dim)
    writer.add_layer_norm_rms_eps(c.rms_eps)
    writer.add_rope_freq_base(c.rope_theta)
    writer.add_bos_token_id(c.bos_id)
    writer.add_eos_token_id(c.eos_ids[0])
    for name in weights.names():
        if name == skip:
            continue
        array = weights.read(name)
        if c.family == "llama" and "q_proj" in name:
            array = interleave(array, c.n_heads)
        if c.family == "llama" and "k_proj" in name:
            array = interleave(array, c.n_kv_heads)
        stem, kind = name.rsplit(".", 1)
        prefix = ""
        if stem.startswith("model.layers."):
            _, _, layer, stem = stem.split(".", 3)
            prefix = f"blk.{layer}."
        writer.add_tensor(f"{prefix}{GGUF_NAMES[stem]}.{kind}", array)
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


QWEN = dataclasses.replace(TINY, family="qwen2", qkv_bias=True, tied_embeddings=False)


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        dataclasses.replace(TINY, tied_embeddings=False, rms_eps=1e-6, rope_theta=1e5),
        QWEN,
        dataclasses.replace(TINY, family="qwen3", qk_norm=True),
        dataclasses.replace(TINY, family="ernie4_5", rope_interleaved=True),
    ],
    ids=lambda c: f"{c.family}-{'tied' if c.tied_embeddings else 'untied'}",
)
def test_a_gguf_file_gives_back_config_and_weights(tmp_path: Path, config: ModelConfig) -> None:
    weights = SyntheticWeights(config, 0)
    path = write_gguf(tmp_path / "m.gguf", weights)
    source = open_weights(WeightRef("gguf", config.name, str(path), 0))
    assert source.config == config
    assert source.names() == weights.names()
    for name in weights.names():
        np.testing.assert_array_equal(source.read(name), weights.read(name), err_msg=name)


def test_llama3_scaling_is_found_in_the_stored_divisors(tmp_path: Path) -> None:
    from chipmark_models.config import RopeScaling
    from chipmark_models.rope import inverse_frequencies

    plain = dataclasses.replace(TINY, rope_theta=500_000.0)
    scaled = dataclasses.replace(plain, rope_scaling=RopeScaling("llama3", 32.0, 1.0, 4.0, 8192))
    factors = (inverse_frequencies(plain) / inverse_frequencies(scaled)).astype(np.float32)
    weights = SyntheticWeights(plain, 0)
    path = write_gguf(tmp_path / "m.gguf", weights, extra={"rope_freqs.weight": factors})
    assert GgufWeights(path, "tiny").config == scaled
    strange = {"rope_freqs.weight": np.linspace(1, 9, 8, dtype=np.float32)}
    path = write_gguf(tmp_path / "n.gguf", weights, extra=strange)
    with pytest.raises(BadInputError, match=r"rope_freqs\.weight"):
        GgufWeights(path)


def test_a_gguf_file_that_lacks_a_tensor_names_it(
    tmp_path: Path, weights: SyntheticWeights
) -> None:
    lacking = "model.layers.2.self_attn.v_proj.weight"
    path = write_gguf(tmp_path / "m.gguf", weights, skip=lacking)
    with pytest.raises(BadInputError, match=rf"field '{lacking}': the tensor is missing"):
        GgufWeights(path)


def test_a_cut_gguf_file_is_refused_at_every_length(
    tmp_path: Path, weights: SyntheticWeights
) -> None:
    whole = write_gguf(tmp_path / "m.gguf", weights).read_bytes()
    cut = tmp_path / "cut.gguf"
    rng = np.random.default_rng(0)
    lengths = [0, 3, 8, 23, *rng.integers(24, 2000, 12).tolist()]
    for length in lengths:
        cut.write_bytes(whole[:length])
        with pytest.raises(BadInputError, match=r"cut\.gguf"):
            GgufWeights(cut)
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInputError, match=r"blk\.\d+\.\w+\.weight': .*cut short"):
        GgufWeights(cut)


def test_a_gguf_file_with_random_damage_raises_nothing_else(
    tmp_path: Path, weights: SyntheticWeights
) -> None:
    whole = write_gguf(tmp_path / "m.gguf", weights).read_bytes()
    bad, rng = tmp_path / "bad.gguf", np.random.default_rng(1)
    refused = 0
    for _ in range(60):
        content = bytearray(whole)
        for at in rng.integers(8, 1500, 3):
            content[at] = int(rng.integers(256))
        bad.write_bytes(bytes(content))
        try:
            GgufWeights(bad)
        except BadInputError:
            refused += 1
    assert refused > 30


def test_an_unknown_architecture_is_named(tmp_path: Path, weights: SyntheticWeights) -> None:
    path = write_gguf(tmp_path / "m.gguf", weights, arch="mamba")
    with pytest.raises(BadInputError, match=r"field 'general\.architecture': 'mamba'"):
        GgufWeights(path)


def test_a_tensor_of_no_family_is_named(tmp_path: Path, weights: SyntheticWeights) -> None:
    extra = {"blk.0.ssm_in.weight": np.zeros(4, np.float32)}
    path = write_gguf(tmp_path / "m.gguf", weights, extra=extra)
    with pytest.raises(BadInputError, match=r"blk\.0\.ssm_in\.weight"):
        GgufWeights(path)
