"""Readers of checkpoints: config.json, safetensors, their index, tokenizers, GGUF."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from chipmark_models.chat_template import render_template
from chipmark_models.config import ModelConfig
from chipmark_models.costs import parameters, weight_bytes_stored
from chipmark_models.presets import preset
from chipmark_models.tokenizer import open_tokenizer
from chipmark_models.weights.checkpoint import SafetensorsWeights
from chipmark_models.weights.gguf_file import GgufWeights
from chipmark_models.weights.source import WeightRef, WeightSource
from chipmark_models.weights.synthetic import SyntheticWeights
from hostile.trial import Subject

CONFIG = replace(preset("tiny"), n_layers=1, tied_embeddings=True, max_context=512)
_GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm",
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def tensors() -> dict[str, Any]:
    """The weights of a tiny model of one layer, by name."""
    weights = SyntheticWeights(CONFIG, 0)
    return {name: weights.read(name) for name in weights.names()}


def hf_config() -> dict[str, Any]:
    """Its config.json."""
    c = CONFIG
    return {
        "model_type": "llama", "vocab_size": c.vocab_size, "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size, "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads, "num_key_value_heads": c.n_kv_heads,
        "head_dim": c.head_dim, "rms_norm_eps": c.rms_eps, "tie_word_embeddings": True,
        "max_position_embeddings": 512, "eos_token_id": [2], "bos_token_id": 1,
        "rope_parameters": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 256, "rope_theta": 500000.0,
        },
    }  # fmt: skip


def safetensors(arrays: dict[str, Any]) -> bytes:
    """A file of float32 tensors."""
    header: dict[str, Any] = {}
    at = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + array.size * 4],
        }  # fmt: skip
        at += array.size * 4
    text = json.dumps(header).encode()
    data = b"".join(array.astype("<f4").tobytes() for array in arrays.values())
    return len(text).to_bytes(8, "little") + text + data


def checkpoint(folder: Path, name: str, sharded: bool = False) -> Path:
    """A folder of safetensors with its tokenizer; returns one of its files."""
    (folder / "config.json").write_text(json.dumps(hf_config()), encoding="utf-8")
    arrays = tensors()
    if sharded:
        half = len(arrays) // 2
        parts = (dict(list(arrays.items())[:half]), dict(list(arrays.items())[half:]))
        names = ("a.safetensors", "b.safetensors")
        for file, part in zip(names, parts, strict=True):
            (folder / file).write_bytes(safetensors(part))
        places = {tensor: file for file, part in zip(names, parts, strict=True) for tensor in part}
        index = {"metadata": {"total_size": 1}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    else:
        (folder / "model.safetensors").write_bytes(safetensors(arrays))
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}', encoding="utf-8")
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {
                "id": 3, "content": "<|end|>", "single_word": False, "lstrip": False,
                "rstrip": False, "normalized": False, "special": True,
            }
        ],
        "normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False,
            "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]],
        },
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    config = {"eos_token": {"content": "<|end|>"}, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder / name


TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content | trim }}"
    "{% if loop.last and add_generation_prompt %}{{ eos_token * 2 }}{% endif %}"
    "{% for i in range(3) %}{{ i + 1 }}{% endfor %}{% endfor %}"
)


def numbers_of(config: ModelConfig) -> None:
    """What tables compute of a shape."""
    parameters(config)
    weight_bytes_stored(config, "bf16")


def read_weights(source: WeightSource) -> None:
    """Every tensor, once."""
    numbers_of(source.config)
    for name in source.names():
        with np.errstate(all="ignore"):
            np.asarray(source.read(name)).sum()
    assert len(source.hash) == 64


def use_checkpoint(path: Path) -> None:
    """Weights of the folder."""
    read_weights(SafetensorsWeights(path.parent))


def use_tokenizer(path: Path) -> None:
    """Tokens of a text, and a conversation by the template."""
    folder = path if path.is_file() and path.suffix == ".gguf" else path.parent
    kind = "gguf" if folder.is_file() else "safetensors"
    tokenizer = open_tokenizer(WeightRef(kind, "m", str(folder), 0))
    tokenizer.decode(tokenizer.encode("a ab <|end|>"))
    if tokenizer.chat_template:
        render_template(
            tokenizer.chat_template, [{"role": "user", "content": "ab"}], tools=None,
            add_generation_prompt=True, today=datetime.date(2026, 1, 1),
            bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token,
        )  # fmt: skip


def good_gguf(folder: Path) -> Path:
    """The same model as a GGUF file."""
    path, c = folder / "model.gguf", CONFIG
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(c.n_layers)
    writer.add_context_length(c.max_context)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.n_heads)
    writer.add_head_count_kv(c.n_kv_heads)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    writer.add_layer_norm_rms_eps(c.rms_eps)
    tokens = ["a", "b", "ab", *(chr(0x100 + n) for n in range(61))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, array in tensors().items():
        stem, kind = name.rsplit(".", 1)
        prefix = ""
        if stem.startswith("model.layers."):
            _, _, layer, stem = stem.split(".", 3)
            prefix = f"blk.{layer}."
        writer.add_tensor(f"{prefix}{_GGUF_NAMES[stem]}.{kind}", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def use_gguf(path: Path) -> None:
    """Weights and tokenizer."""
    read_weights(GgufWeights(path))
    use_tokenizer(path)


def good_shape(folder: Path) -> Path:
    """A shape as records keep it."""
    path = folder / "shape.json"
    path.write_text(json.dumps(CONFIG.to_dict()), encoding="utf-8")
    return path


def use_shape(path: Path) -> None:
    """The shape back, as `validate` reads it out of a record that was parsed."""
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return
    if isinstance(document, dict):
        numbers_of(ModelConfig.from_dict(document))


_HF = ("chipmark_models/hf_config.py", "chipmark_models/config.py")
_ST = ("chipmark_models/weights/safetensors_file.py", "chipmark_models/weights/checkpoint.py")
_TOK = ("chipmark_models/tokenizer.py",)
_GGUF = tuple(f"chipmark_models/weights/gguf_{name}.py" for name in ("reader", "file", "config"))

SUBJECTS = [
    Subject(
        "config.json", "json", partial(checkpoint, name="config.json"), use_checkpoint, _HF,
        share=10.0,
    ),
    Subject("shape of a record", "json", good_shape, use_shape, _HF, share=10.0),
    Subject(
        "generation_config.json", "json", partial(checkpoint, name="generation_config.json"),
        use_checkpoint, _HF, share=2.0,
    ),
    Subject(
        "safetensors", "safetensors", partial(checkpoint, name="model.safetensors"), use_checkpoint,
        _ST, share=10.0,
    ),
    Subject(
        "safetensors index", "json",
        partial(checkpoint, name="model.safetensors.index.json", sharded=True), use_checkpoint, _ST,
        share=6.0,
    ),
    Subject(
        "tokenizer.json", "json", partial(checkpoint, name="tokenizer.json"), use_tokenizer, _TOK,
        share=5.0,
    ),
    Subject(
        "tokenizer_config.json", "json", partial(checkpoint, name="tokenizer_config.json"),
        use_tokenizer, _TOK, share=5.0,
    ),
    Subject("gguf", "gguf", good_gguf, use_gguf, _GGUF, share=3.0),
]  # fmt: skip
