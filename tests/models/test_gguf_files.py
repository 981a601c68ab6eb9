"""GGUF files in parts, of the other byte order or types, or with keys that change the results."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chipmark_models.errors import BadInputError
from chipmark_models.presets import preset
from chipmark_models.pull import resolve_model
from chipmark_models.tokenizer import open_tokenizer
from chipmark_models.weights.open import source_hash
from chipmark_models.weights.source import WeightRef
from chipmark_models.weights.synthetic import SyntheticWeights

gguf = pytest.importorskip("gguf")

from chipmark_models.weights.gguf_file import GgufWeights  # noqa: E402

# Of the architecture qwen2, which keeps the rows of q and k as they are.
CONFIG = dataclasses.replace(
    preset("tiny"), family="qwen2", qkv_bias=True, n_layers=2, max_context=512
)
NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "model.embed_tokens": "token_embd", "model.norm": "output_norm",
}  # fmt: skip


@pytest.fixture(scope="module")
def weights() -> SyntheticWeights:
    return SyntheticWeights(CONFIG, 0)


def file_name(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    prefix = ""
    if stem.startswith("model.layers."):
        _, _, layer, stem = stem.split(".", 3)
        prefix = f"blk.{layer}."
    return f"{prefix}{NAMES[stem]}.{kind}"


def write_gguf(
    path: Path,
    weights: SyntheticWeights,
    *,
    keys: dict[str, Any] | None = None,
    big_endian: bool = False,
    per_part: int = 0,
    empty_first: bool = False,
    types: dict[str, Any] | None = None,
) -> Path:
    c = weights.config
    order = gguf.GGUFEndian.BIG if big_endian else gguf.GGUFEndian.LITTLE
    writer = gguf.GGUFWriter(
        path, c.family, endianess=order, split_max_tensors=per_part, small_first_shard=empty_first
    )
    numbers = {
        "block_count": c.n_layers, "context_length": c.max_context, "embedding_length": 64,
        "feed_forward_length": c.intermediate_size, "attention.head_count": c.n_heads,
        "attention.head_count_kv": c.n_kv_heads, "attention.key_length": c.head_dim,
    }  # fmt: skip
    values: dict[str, Any] = {"attention.layer_norm_rms_epsilon": c.rms_eps, **numbers}
    for key, value in (values | (keys or {})).items():
        name = key if key.startswith("general.") else f"{c.family}.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        else:
            writer.add_string(name, value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    tokens = ["a", "b", "ab", *(chr(0x100 + n) for n in range(c.vocab_size - 3))]
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(2)
    for name in weights.names():
        array = weights.read(name)
        kind = (types or {}).get(name)
        data = array if kind is None else gguf.quants.quantize(array, kind)
        writer.add_tensor(file_name(name), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def parts_of(folder: Path, weights: SyntheticWeights, per_part: int = 10) -> list[Path]:
    folder.mkdir()
    write_gguf(folder / "m.gguf", weights, per_part=per_part)
    return sorted(folder.glob("*.gguf"))


def assert_holds(source: GgufWeights, weights: SyntheticWeights) -> None:
    assert source.config == dataclasses.replace(weights.config, name=source.config.name, bos_id=1)
    for name in weights.names():
        np.testing.assert_array_equal(source.read(name), weights.read(name), err_msg=name)


def test_a_split_file_is_read_whole_from_any_part(
    tmp_path: Path, weights: SyntheticWeights
) -> None:
    parts = parts_of(tmp_path / "m", weights)
    assert [p.name for p in parts] == [f"m-{i:05}-of-00003.gguf" for i in (1, 2, 3)]
    hashes = set()
    for part in parts:
        ref = resolve_model(str(part))
        assert ref.model == "m"
        source = GgufWeights(part)
        assert source.config.name == "m"
        assert_holds(source, weights)
        assert source.hash == source_hash(ref)
        hashes.add(source.hash)
        assert open_tokenizer(ref).vocab_size == CONFIG.vocab_size
    assert len(hashes) == 1


def test_a_first_part_without_tensors_is_read(tmp_path: Path, weights: SyntheticWeights) -> None:
    write_gguf(tmp_path / "m.gguf", weights, per_part=13, empty_first=True)
    first, second, _third = sorted(tmp_path.glob("*.gguf"))
    assert first.stat().st_size < second.stat().st_size
    assert_holds(GgufWeights(first), weights)
    assert_holds(GgufWeights(second), weights)


def test_a_changed_part_changes_the_hash(tmp_path: Path, weights: SyntheticWeights) -> None:
    parts = parts_of(tmp_path / "m", weights)
    before = GgufWeights(parts[0]).hash
    data = bytearray(parts[2].read_bytes())
    data[-1] ^= 1
    parts[2].write_bytes(bytes(data))
    assert GgufWeights(parts[0]).hash != before


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_missing_part_is_named(tmp_path: Path, weights: SyntheticWeights, lost: int) -> None:
    parts = parts_of(tmp_path / "m", weights)
    parts[lost].unlink()
    says = rf"m-0000{lost + 1}-of-00003\.gguf: part {lost + 1} of 3 is missing"
    with pytest.raises(BadInputError, match=says):
        GgufWeights(parts[(lost + 1) % 3])


def test_a_renamed_part_is_refused(tmp_path: Path, weights: SyntheticWeights) -> None:
    parts = parts_of(tmp_path / "m", weights)
    alone = parts[0].rename(tmp_path / "m" / "model.gguf")
    with pytest.raises(BadInputError, match=r"field 'split\.no': is part 1 of 3 by its metadata"):
        GgufWeights(alone)


def test_parts_in_another_order_are_refused(tmp_path: Path, weights: SyntheticWeights) -> None:
    parts = parts_of(tmp_path / "m", weights)
    data = [p.read_bytes() for p in parts]
    parts[1].write_bytes(data[2])
    parts[2].write_bytes(data[1])
    with pytest.raises(
        BadInputError, match=r"m-00002-of-00003\.gguf: field 'split\.no': is 2, expected 1"
    ):
        GgufWeights(parts[0])


def test_a_part_of_another_model_is_refused(tmp_path: Path, weights: SyntheticWeights) -> None:
    parts = parts_of(tmp_path / "m", weights)
    larger = SyntheticWeights(dataclasses.replace(CONFIG, n_layers=3), 0)
    other = parts_of(tmp_path / "o", larger, per_part=14)
    parts[2].write_bytes(other[2].read_bytes())
    with pytest.raises(BadInputError, match=r"field 'split\.tensors\.count': is 26, expected"):
        GgufWeights(parts[0])


def test_a_tensor_in_two_parts_is_refused(tmp_path: Path, weights: SyntheticWeights) -> None:
    parts = parts_of(tmp_path / "m", weights)
    data = parts[1].read_bytes()
    old, new = b"blk.1.attn_norm.weight", b"blk.0.attn_norm.weight"
    assert data.count(old) == 1
    parts[1].write_bytes(data.replace(old, new))
    with pytest.raises(
        BadInputError, match=r"field 'blk\.0\.attn_norm\.weight': is in an earlier part"
    ):
        GgufWeights(parts[0])


def test_a_big_endian_file_is_read(tmp_path: Path, weights: SyntheticWeights) -> None:
    types = {
        n: gguf.GGMLQuantizationType.F16 for n in weights.names() if n.endswith("o_proj.weight")
    }
    path = write_gguf(tmp_path / "m.gguf", weights, big_endian=True, types=types)
    assert path.read_bytes()[4:8] == b"\0\0\0\3"
    source = GgufWeights(path)
    for name in weights.names():
        wanted = weights.read(name)
        if name in types:
            wanted = wanted.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(source.read(name), wanted, err_msg=name)
    assert open_tokenizer(WeightRef("gguf", "m", str(path), 0)).vocab_size == CONFIG.vocab_size


def test_quantised_blocks_of_the_other_byte_order_are_refused(
    tmp_path: Path, weights: SyntheticWeights
) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    types = {name: gguf.GGMLQuantizationType.Q8_0}
    path = write_gguf(tmp_path / "m.gguf", weights, big_endian=True, types=types)
    says = r"'blk\.0\.ffn_up\.weight': has the type Q8_0 in a file of the other byte.*\n.*endian"
    with pytest.raises(BadInputError, match=says):
        GgufWeights(path)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (31, r"type 31 \(Q4_0_4_4\), which is not read"),
        (4, r"type 4 \(Q4_2\)"),
        (153, r"type 153 \(of a fork"),
        (24, "type I8, which the package gguf does not turn into numbers"),
    ],
)
def test_a_type_that_is_not_read_is_named_with_its_tensor(
    tmp_path: Path, weights: SyntheticWeights, number: int, says: str
) -> None:
    path = write_gguf(tmp_path / "m.gguf", weights)
    data, name = bytearray(path.read_bytes()), b"blk.1.ffn_down.weight"
    at = data.index(struct.pack("<Q", len(name)) + name) + 8 + len(name)
    (dims,) = struct.unpack_from("<I", data, at)
    struct.pack_into("<I", data, at + 4 + 8 * dims, number)
    path.write_bytes(bytes(data))
    with pytest.raises(BadInputError, match=rf"blk\.1\.ffn_down\.weight': has the .*{says}"):
        GgufWeights(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope.scale_linear", 4.0),
        ("rope.scaling.factor", 4.0),
        ("rope.scaling.type", "linear"),
        ("rope.scaling.attn_factor", 1.2),
        ("rope.scaling.yarn_log_multiplier", 0.1),
        ("rope.dimension_count", 8),
        ("attention.value_length", 8),
        ("attention.scale", 0.1),
        ("attention.sliding_window", 128),
        ("attention.sliding_window_pattern", 2),
        ("attention.causal", False),
        ("logit_scale", 0.5),
        ("residual_scale", 0.25),
        ("embedding_scale", 12.0),
        ("attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", 30.0),
        ("expert_count", 8),
        ("use_parallel_residual", True),
        ("rope.freq_base_swa", 1e4),
        ("a_key_of_tomorrow", 1),
        ("general.type", "adapter"),
    ],
)
def test_a_key_that_changes_the_results_is_refused(
    tmp_path: Path, weights: SyntheticWeights, key: str, value: Any
) -> None:
    path = write_gguf(tmp_path / "m.gguf", weights, keys={key: value})
    with pytest.raises(BadInputError, match="sliding_window" if key.endswith("window") else key):
        GgufWeights(path)


def test_keys_without_effect_are_read(tmp_path: Path, weights: SyntheticWeights) -> None:
    keys = {
        "rope.scaling.factor": 1.0,
        "rope.scale_linear": 0.0,
        "rope.scaling.type": "none",
        "rope.scaling.original_context_length": 512,
        "rope.scaling.finetuned": False,
        "rope.dimension_count": 16,
        "attention.value_length": 16,
        "attention.sliding_window": 0,
        "attention.causal": True,
        "expert_count": 0,
        "logit_scale": 1.0,
        "vocab_size": 512,
        "general.type": "model",
    }
    assert_holds(GgufWeights(write_gguf(tmp_path / "m.gguf", weights, keys=keys)), weights)
