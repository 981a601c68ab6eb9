"""Opening the source of weights that a reference names: the only file that knows every reader."""

from __future__ import annotations

from pathlib import Path

from chipmark_models.presets import preset
from chipmark_models.weights.checkpoint import SafetensorsWeights
from chipmark_models.weights.gguf_file import GgufWeights, hash_of_model
from chipmark_models.weights.source import WeightRef, WeightSource
from chipmark_models.weights.synthetic import SyntheticWeights


def open_weights(ref: WeightRef) -> WeightSource:
    """Open the source and check every tensor's name and shape; reads no tensor data yet.

    Raises BadInputError (a cut file, a missing tensor, a wrong shape) or UnknownNameError.
    """
    if ref.kind == "synthetic":
        return SyntheticWeights(preset(ref.model), ref.seed)
    assert ref.path is not None
    if ref.kind == "safetensors":
        return SafetensorsWeights(ref.path, name=ref.model)
    return GgufWeights(ref.path, name=ref.model)


def source_hash(ref: WeightRef) -> str:
    """The source's `hash` without parsing or checking it: quick, to look for what was prepared."""
    if ref.kind == "gguf":
        assert ref.path is not None
        return hash_of_model(Path(ref.path))
    return open_weights(ref).hash
