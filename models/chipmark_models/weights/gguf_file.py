"""Weights and shape from a GGUF file, through the package `gguf` (imported only here).

Used by parent processes only: children read the prepared file, which needs numpy alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from chipmark_models.errors import BadInputError
from chipmark_models.families import family_named
from chipmark_models.files import sha256_of_file
from chipmark_models.tensors import HEAD, check_shapes, expected_shapes
from chipmark_models.weights.gguf_config import ROPE_FACTORS, config_from_fields, rope_scaling_of
from chipmark_models.weights.gguf_reader import model_name, open_model, part_paths
from chipmark_models.weights.plain import FloatArray

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


class GgufWeights:
    """A WeightSource over a GGUF file, or over all parts of a split one, whichever is given.

    Quantised tensors are dequantised by the package's rules.
    Where files of the family hold the rows of q and k in the order of interleaved rotary pairs
    (`Family.gguf_pairs_rows`), they are put back into that of Hugging Face, (i, i + head_dim/2).
    Raises BadInputError for a file that is cut short, is missing a tensor or is of another family.
    """

    kind = "gguf"

    def __init__(self, path: str | os.PathLike[str], name: str = "") -> None:
        self.path = Path(path)
        model = open_model(self.path, long_lists=False)
        self._paths, self._tensors = model.paths, model.tensors
        self.config = config_from_fields(
            model.fields,
            name or model_name(self.path),
            self.path,
            vocab_size=_rows_of_embedding(self._tensors, self.path),
            tied="output.weight" not in self._tensors,
            biased=tuple(n for n in self._tensors if n.endswith(".bias")),
        )
        self._pairs_rows = family_named(self.config.family).gguf_pairs_rows
        self._names: dict[str, str] = {}
        for tensor in self._tensors:
            if tensor == ROPE_FACTORS:
                continue
            canonical = canonical_name(tensor, self.path)
            if canonical in self._names:
                raise BadInputError(self.path, f"is there as {tensor} too", field=canonical)
            self._names[canonical] = tensor
        shapes = {
            canonical: tuple(int(n) for n in reversed(self._tensors[tensor].shape))
            for canonical, tensor in self._names.items()
        }
        check_shapes(self.config, shapes, self.path)
        if ROPE_FACTORS in self._tensors:
            factors = np.asarray(self._tensors[ROPE_FACTORS].data, np.float64)
            scaling = rope_scaling_of(self.config, factors, self.path)
            self.config = dataclasses.replace(self.config, rope_scaling=scaling)

    @cached_property
    def hash(self) -> str:
        """sha256 of the file; of the parts' own sha256, in order, where there are several."""
        return hash_of_parts(self._paths)

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
        # A big-endian file's numbers come in their own byte order; the package's views would not.
        data = tensor.data.astype(tensor.data.dtype.newbyteorder("="), copy=False)
        array = quants.dequantize(data, tensor.tensor_type)
        array = np.ascontiguousarray(array, np.float32).reshape(self.shape(name))
        if self._pairs_rows and ".self_attn." in name:
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
    if (
        len(parts) == 4
        and parts[0] == "blk"
        and parts[1].isdecimal()
        and len(parts[1]) < 7
        and parts[2] in _LAYER_NAMES
    ):
        return f"model.layers.{int(parts[1])}.{_LAYER_NAMES[parts[2]]}.{parts[3]}"
    raise BadInputError(path, "is a tensor that no supported family has", field=tensor)


def hash_of_model(path: Path) -> str:
    """The `hash` of a file's model, without checking its tensors; any part may be given."""
    return hash_of_parts(part_paths(path))


def hash_of_parts(paths: tuple[Path, ...]) -> str:
    """sha256 of one file, or over a line with the sha256 of each of several."""
    digests = [sha256_of_file(path) for path in paths]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(f"{d}\n" for d in digests).encode()).hexdigest()


def _rows_of_embedding(tensors: dict[str, Any], path: object) -> int:
    if "token_embd.weight" not in tensors:
        raise BadInputError(path, "the tensor is missing", field="token_embd.weight")
    return int(tensors["token_embd.weight"].shape[-1])
