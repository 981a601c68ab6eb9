"""Weights and shape from a folder with config.json and safetensors, under canonical names.

Tensors are found by what the files hold, as transformers finds them: an index says which files
belong to the model, not where a tensor lies. A checkpoint of the base model has no `model.` in
front of its names, and a tied head may be stored under either name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from chipmark_models.config import ModelConfig
from chipmark_models.errors import BadInputError
from chipmark_models.families import family_named
from chipmark_models.files import sha256_of_file
from chipmark_models.model_folder import read_json_object
from chipmark_models.tensors import EMBEDDING, HEAD, check_shapes, expected_shapes
from chipmark_models.weights.plain import FloatArray, widen
from chipmark_models.weights.safetensors_file import SafetensorsFile

_READ_PRECISION = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
_PREFIX = "model."
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_ADAPTER = "adapter_config.json"
# Tables of angles that old checkpoints hold; they are computed from the config, here as there.
_BUFFER = ".rotary_emb.inv_freq"
_COMPARED_ROWS = 4_096
_LONGEST_NAME = 255


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor is stored: its file and its name there."""

    file: SafetensorsFile
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.file.entries[self.name].shape

    def read(self) -> FloatArray:
        precision = _READ_PRECISION[self.file.entries[self.name].dtype]
        return np.ascontiguousarray(widen(self.file.raw(self.name), precision))


class SafetensorsWeights:
    """A WeightSource over a folder with config.json and safetensors, or over one such file.

    F32, F16 and BF16 are read. Raises BadInputError for a file that is cut short, a tensor that
    is missing, stored twice, of another shape or type, or that the config has no use for, and
    for a folder whose adapter would change the weights.
    """

    kind = "safetensors"

    def __init__(self, path: str | os.PathLike[str], name: str = "") -> None:
        given = Path(path)
        folder = given if given.is_dir() else given.parent
        self.config = read_config(folder, name or folder.name)
        if (folder / _ADAPTER).is_file():
            raise BadInputError(
                folder / _ADAPTER,
                "adapters are not applied, and transformers would apply this one",
                hint="merge the adapter into the weights, or move it out of the folder",
            )
        self._paths = _files(given)
        self._untied = False
        self._places = _places(self.config, [SafetensorsFile(f) for f in self._paths])
        if self.config.tied_embeddings:
            self._tie()
        shapes = {tensor: place.shape for tensor, place in self._places.items()}
        tied = self.config.tied_embeddings
        try:
            check_shapes(self.config, shapes, given, ignorable=(HEAD,) if tied else ())
        except BadInputError as exc:
            raise _explained(exc, self._places, folder, self._paths) from exc

    def _tie(self) -> None:
        """Fill in the name that a tied model leaves out; two matrices that differ are not tied.

        As transformers does: the config's word counts only where the file does not contradict it.
        """
        embedding, head = self._places.get(EMBEDDING), self._places.get(HEAD)
        if embedding is None and head is not None:
            self._places[EMBEDDING] = head
        elif embedding is not None and head is not None and not _equal(embedding, head):
            self.config = dataclasses.replace(self.config, tied_embeddings=False)
            self._untied = True

    @cached_property
    def hash(self) -> str:
        """sha256 over the sha256 of config.json and of each file, in order of their names.

        With a line of its own where a stored head unties a config, because what is computed of the
        files is then another model than the config alone says.
        """
        paths = sorted([*self._paths, self._paths[0].parent / "config.json"], key=lambda p: p.name)
        lines = [f"{p.name} {sha256_of_file(p)}\n" for p in paths]
        lines += ["untied\n"] * self._untied
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def names(self) -> tuple[str, ...]:
        """Tensor names in the order of computation."""
        return tuple(expected_shapes(self.config))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._places[name].shape

    def read(self, name: str) -> FloatArray:
        """The tensor in float32, C-contiguous (a read-only view of the file where it is F32)."""
        return self._places[name].read()


def read_config(folder: Path, name: str) -> ModelConfig:
    """The ModelConfig of a folder's config.json (and generation_config.json's end tokens)."""
    path = folder / "config.json"
    data = read_json_object(path, hint="a model folder holds config.json and safetensors")
    generation = folder / "generation_config.json"
    if generation.is_file():
        eos = read_json_object(generation).get("eos_token_id")
        data = data | ({"eos_token_id": eos} if eos is not None else {})
    return ModelConfig.from_hf(data, name, path)


def _files(given: Path) -> list[Path]:
    """The model's files: all shards where a folder or one of its shards is given.

    A folder with both one whole file and an index is read from the whole file, as in transformers.
    """
    folder = given if given.is_dir() else given.parent
    index = folder / _INDEX
    if given.is_file():
        shards = _shards(index) if index.is_file() else []
        return shards if given in shards else [given]
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if index.is_file():
        return _shards(index)
    raise BadInputError(folder, f"holds no {_SINGLE} and no index of shards")


def _shards(index: Path) -> list[Path]:
    names = read_json_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
        raise BadInputError(index, "must map tensors to files", field="weight_map")
    files = sorted(set(names.values()))
    for file in files:
        if Path(file).name != file or not file.isprintable() or len(file) > _LONGEST_NAME:
            raise BadInputError(index, f"{file!r} leaves the folder", field="weight_map")
        if not (index.parent / file).is_file():
            raise BadInputError(
                index.parent / file, "the shard is missing", hint=f"named by {index}"
            )
    return [index.parent / file for file in files]


def _places(config: ModelConfig, files: list[SafetensorsFile]) -> dict[str, _Place]:
    """Where each tensor lies, by canonical name."""
    expected = expected_shapes(config)
    own = family_named(config.family).tensor_names
    places: dict[str, _Place] = {}
    for file in files:
        for tensor, entry in file.entries.items():
            if tensor.endswith(_BUFFER):
                continue
            if entry.dtype not in _READ_PRECISION:
                raise BadInputError(
                    file.path, f"has type {entry.dtype}; F32, F16, BF16 are read", field=tensor
                )
            name = _canonical(tensor, own)
            name = _PREFIX + name if _PREFIX + name in expected else name
            if name in places:
                other = places[name]
                raise BadInputError(
                    file.path,
                    f"is stored twice, also as {other.name} in {other.file.path.name}",
                    field=tensor,
                )
            places[name] = _Place(file, tensor)
    return places


def _canonical(tensor: str, own: Mapping[str, str]) -> str:
    """A stored name with the family's own name of a module replaced by the canonical one."""
    module, dot, kind = tensor.rpartition(".")
    for stored, canonical in own.items():
        if module == stored or module.endswith(f".{stored}"):
            return module.removesuffix(stored) + canonical + dot + kind
    return tensor


def _equal(a: _Place, b: _Place) -> bool:
    """Whether two matrices hold the same values, row by row up to the first that differ."""
    types = [p.file.entries[p.name].dtype for p in (a, b)]
    if a.shape != b.shape:
        return False
    left, right = a.file.raw(a.name), b.file.raw(b.name)
    for start in range(0, a.shape[0], _COMPARED_ROWS):
        rows = slice(start, start + _COMPARED_ROWS)
        first, second = (
            widen(np.ascontiguousarray(m[rows]), _READ_PRECISION[t])
            for m, t in zip((left, right), types, strict=True)
        )
        if not np.array_equal(first, second):
            return False
    return True


def _explained(
    error: BadInputError, places: dict[str, _Place], folder: Path, read: list[Path]
) -> BadInputError:
    """The same refusal with its cause: another prefix, or a file that the index leaves out."""
    prefixed = next((n for n in places if n.endswith("." + error.field.removeprefix(_PREFIX))), "")
    hint = error.hint
    if error.field not in places and prefixed:
        hint = f"the file has {prefixed}: names with another prefix are not read"
    for path in sorted(set(folder.glob("*.safetensors")) - set(read)):
        if error.field in SafetensorsFile(path).entries:
            hint = f"{path.name} holds it, which {_INDEX} does not name"
    return BadInputError(error.path, error.problem, field=error.field, hint=hint)
