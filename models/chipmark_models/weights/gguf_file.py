"""Weights and shape from a GGUF file, through the package `gguf` (imported only here).

Used by parent processes only: children read the prepared file, which needs numpy alone.
"""

from __future__ import annotations

import dataclasses
import os
import struct
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chipmark_models.config import ModelConfig, RopeScaling
from chipmark_models.errors import BadInputError, ChipmarkError
from chipmark_models.rope import inverse_frequencies
from chipmark_models.weights.naming import HEAD, check_shapes, expected_shapes
from chipmark_models.weights.safetensors_file import sha256_of_file
from chipmark_models.weights.source import FloatArray

# GGUF architecture -> family here. llama.cpp files Mistral models under "llama" as well.
_FAMILIES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "ernie4_5": "ernie4_5"}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
_GLOBAL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": HEAD,
}
# A vocabulary of 256,000 takes 1.3 million; a damaged length could ask for the whole file.
_MAX_READS = 5_000_000
_END_KEYS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
_ROPE_FACTORS = "rope_freqs.weight"


class GgufWeights:
    """A WeightSource over a GGUF file; quantised tensors are dequantised by the package's rules.

    In files of the llama architecture the rows of q and k lie in the order of interleaved rotary
    pairs; they are put back into the order of Hugging Face, (i, i + head_dim/2).
    Raises BadInputError for a file that is cut short, lacks a tensor or is of another family.
    """

    kind = "gguf"

    def __init__(self, path: str | os.PathLike[str], name: str = "") -> None:
        self.path = Path(path)
        reader = open_gguf(self.path)
        self._tensors = {t.name: t for t in reader.tensors}
        self.config = config_from_fields(
            read_fields(reader, path, long_lists=False),
            name or self.path.stem,
            self.path,
            vocab_size=_rows_of_embedding(self._tensors, self.path),
            tied="output.weight" not in self._tensors,
            biased=tuple(n for n in self._tensors if n.endswith(".bias")),
        )
        self._names: dict[str, str] = {}
        for tensor in self._tensors:
            if tensor != _ROPE_FACTORS:
                self._names[canonical_name(tensor, self.path)] = tensor
        shapes = {
            canonical: tuple(int(n) for n in reversed(self._tensors[tensor].shape))
            for canonical, tensor in self._names.items()
        }
        check_shapes(self.config, shapes, self.path)
        if _ROPE_FACTORS in self._tensors:
            factors = np.asarray(self._tensors[_ROPE_FACTORS].data, np.float64)
            scaling = rope_scaling_of(self.config, factors, self.path)
            self.config = dataclasses.replace(self.config, rope_scaling=scaling)

    @cached_property
    def hash(self) -> str:
        """sha256 of the file."""
        return sha256_of_file(self.path)

    def names(self) -> tuple[str, ...]:
        """Tensor names in the order of computation."""
        return tuple(expected_shapes(self.config))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, (out, in) for a matrix."""
        return tuple(int(n) for n in reversed(self._tensors[self._names[name]].shape))

    def read(self, name: str) -> FloatArray:
        """The tensor dequantised to float32, C-contiguous."""
        from gguf import quants

        tensor = self._tensors[self._names[name]]
        array = quants.dequantize(tensor.data, tensor.tensor_type)
        array = np.ascontiguousarray(array, np.float32).reshape(self.shape(name))
        if self.config.family == "llama" and ".self_attn." in name:
            if ".q_proj." in name:
                return _undo_interleave(array, self.config.n_heads)
            if ".k_proj." in name:
                return _undo_interleave(array, self.config.n_kv_heads)
        return array


def _undo_interleave(array: FloatArray, heads: int) -> FloatArray:
    """Rows (head, pair, side) back to (head, side, pair)."""
    rows = array.shape[0]
    split = array.reshape(heads, rows // heads // 2, 2, *array.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(array.shape)


def canonical_name(tensor: str, path: object) -> str:
    """Name of Hugging Face for a GGUF tensor; BadInputError for one that is not known."""
    if tensor in _GLOBAL_NAMES:
        return _GLOBAL_NAMES[tensor]
    parts = tensor.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[1].isdigit() and parts[2] in _LAYER_NAMES:
        return f"model.layers.{int(parts[1])}.{_LAYER_NAMES[parts[2]]}.{parts[3]}"
    raise BadInputError(path, "is a tensor that no supported family has", field=tensor)


def open_gguf(path: Path) -> Any:
    """A `gguf.GGUFReader`; checks the magic and that the last tensor lies within the file.

    Raises BadInputError for a broken file and ChipmarkError where the package is not installed.
    """
    try:
        import gguf
    except ImportError as exc:
        raise ChipmarkError(
            "reading GGUF files needs the package gguf", "pip install 'chipmark[gguf]'"
        ) from exc
    try:
        with path.open("rb") as file:
            magic, version = struct.unpack("<4sI", file.read(8).ljust(8, b"\0"))
    except OSError as exc:
        raise BadInputError(path, f"cannot be read: {exc.strerror or exc}") from exc
    if magic != b"GGUF" or version not in (2, 3):
        raise BadInputError(path, f"is no GGUF file of version 2 or 3 (starts with {magic!r})")
    try:
        return _bounded_reader(gguf.GGUFReader)(str(path), "r")
    except _CutShortError as exc:
        raise BadInputError(
            path, f"{exc}: it is cut short", field=exc.tensor, hint="fetch the file again"
        ) from exc
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as exc:
        raise BadInputError(path, f"is no valid GGUF file: {exc}") from exc


class _CutShortError(Exception):
    def __init__(self, message: str, tensor: str = "") -> None:
        super().__init__(message)
        self.tensor = tensor


def _bounded_reader(base: Any) -> Any:
    """The package's reader with a bound on every read: its own slices beyond the end of the map
    come back short, which loops or fails without a name.
    """

    class BoundedReader(base):  # type: ignore[misc]
        data: Any
        n_reads = 0

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            self.n_reads += 1
            if self.n_reads > _MAX_READS:
                raise ValueError(f"its metadata has over {_MAX_READS} items")
            if isinstance(self.data, np.memmap):
                # Slices of the subclass cost three times a plain array's, 250,000 times.
                self.data = np.asarray(self.data)
            end = int(offset) + dtype().itemsize * int(count)
            if end > len(self.data):
                raise _CutShortError(f"needs byte {end}, the file ends at {len(self.data)}")
            return super()._get(offset, dtype, count, override_order)

        def _build_tensors(self, start_offs: int, fields: Any) -> None:
            for field in fields:
                try:
                    super()._build_tensors(start_offs, [field])
                except _CutShortError as exc:
                    raise _CutShortError(str(exc), tensor=field.name) from exc
            super()._build_tensors(start_offs, fields)

    return BoundedReader


def read_fields(reader: Any, path: object, *, long_lists: bool = True) -> dict[str, Any]:
    """Metadata of a file as plain Python values; `long_lists` takes in those over 1,000 entries.

    The lists of a vocabulary take a second, and the shape does not need them.
    """
    fields: dict[str, Any] = {}
    for key, field in reader.fields.items():
        if long_lists or len(field.data) <= 1_000:
            try:
                fields[key] = field.contents()
            except (ValueError, IndexError, TypeError) as exc:
                raise BadInputError(path, f"cannot be read: {exc}", field=key) from exc
    return fields


def _rows_of_embedding(tensors: dict[str, Any], path: object) -> int:
    if "token_embd.weight" not in tensors:
        raise BadInputError(path, "the tensor is lacking", field="token_embd.weight")
    return int(tensors["token_embd.weight"].shape[-1])


def config_from_fields(
    fields: dict[str, Any],
    name: str,
    path: object,
    *,
    vocab_size: int,
    tied: bool,
    biased: tuple[str, ...] = (),
) -> ModelConfig:
    """The shape from GGUF metadata; BadInputError names a key that is lacking."""
    arch = fields.get("general.architecture")
    if arch not in _FAMILIES:
        raise BadInputError(
            path,
            f"{arch!r} is not supported; supported: {', '.join(_FAMILIES)}",
            field="general.architecture",
        )

    def number(key: str, default: float | None = None) -> Any:
        value = fields.get(key, default)
        if value is None:
            raise BadInputError(path, "is lacking", field=key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadInputError(path, f"must be one number, not {value!r}", field=key)
        return value

    def get(key: str, default: float | None = None) -> Any:
        return number(f"{arch}.{key}", default)

    heads, hidden = get("attention.head_count"), get("embedding_length")
    family = _FAMILIES[arch]
    _no_rope_scaling(fields, arch, path)
    window = get("attention.sliding_window", 0)
    return ModelConfig(
        name=name,
        family=family,
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=get("feed_forward_length"),
        n_layers=get("block_count"),
        n_heads=heads,
        n_kv_heads=get("attention.head_count_kv", heads),
        head_dim=get("attention.key_length", hidden // max(heads, 1)),
        rms_eps=_short_float(get("attention.layer_norm_rms_epsilon")),
        rope_theta=_short_float(get("rope.freq_base", 10_000.0)),
        rope_scaling=None,  # GgufWeights finds it in rope_freqs.weight
        rope_interleaved=family == "ernie4_5",
        tied_embeddings=tied,
        qkv_bias=any(".attn_q." in n for n in biased),
        attn_out_bias=any(".attn_output." in n for n in biased),
        mlp_bias=any(".ffn_up." in n for n in biased),
        qk_norm=family == "qwen3",
        max_context=get("context_length"),
        sliding_window=window or None,
        bos_id=number("tokenizer.ggml.bos_token_id", 1),
        eos_ids=tuple(dict.fromkeys(number(k) for k in _END_KEYS if k in fields)) or (2,),
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
    scaling = RopeScaling("llama3", float(factors.max()), 1.0, 4.0, 8_192)
    plain = inverse_frequencies(config)
    scaled = inverse_frequencies(dataclasses.replace(config, rope_scaling=scaling))
    if factors.shape != plain.shape or not np.allclose(plain / scaled, factors, rtol=1e-4):
        raise BadInputError(path, "is no scaling of Llama 3.1", field=_ROPE_FACTORS)
    return scaling


def _no_rope_scaling(fields: dict[str, Any], arch: str, path: object) -> None:
    kind = fields.get(f"{arch}.rope.scaling.type", "none")
    if kind != "none":
        raise BadInputError(path, f"{kind!r} is not supported", field=f"{arch}.rope.scaling.type")
