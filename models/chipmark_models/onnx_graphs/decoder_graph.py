"""Builds the graph of a model at one level; the one entry point of this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from chipmark_models.config import ModelConfig
from chipmark_models.errors import UnknownNameError
from chipmark_models.onnx_graphs.builder import OPSET, Graph, GraphBuilder, WeightView
from chipmark_models.onnx_graphs.contrib import ContribEmitter
from chipmark_models.onnx_graphs.emitter import LEVELS, Emitter, GraphShape, write_decoder
from chipmark_models.onnx_graphs.plain import PlainEmitter
from chipmark_models.onnx_graphs.quantised_linear import opset_of
from chipmark_models.onnx_graphs.standard import STANDARD_OPSET, StandardEmitter


def build_graph(config: ModelConfig, level: str, shape: GraphShape) -> Graph:
    """The decoder as a graph whose weights are placed later (`Graph.serialize`).

    Raises UnknownNameError for a level that does not exist.
    """
    of_level = STANDARD_OPSET if level == "standard" else OPSET
    builder = GraphBuilder(max(of_level, opset_of(shape.quantised)))
    write_decoder(config, shape, builder, emitter_of(config, level, shape, builder))
    return builder.build(f"{config.name}-{level}", level, shape.dtype)


def emitter_of(
    config: ModelConfig, level: str, shape: GraphShape, builder: GraphBuilder
) -> Emitter:
    """What writes the operators of a level into `builder`; UnknownNameError for no level."""
    emitters: dict[str, Callable[[ModelConfig, GraphShape, GraphBuilder], Emitter]] = {
        "plain": PlainEmitter,
        "standard": StandardEmitter,
        "contrib": ContribEmitter,
    }
    if level not in emitters:
        raise UnknownNameError("graph level", level, LEVELS)
    return emitters[level](config, shape, builder)


def weight_array(view: WeightView, tensor: Callable[[str], npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """The array of an initializer from the model's tensors (already in the view's dtype).

    Tensors that lie side by side in one mapped file are stacked without a copy.
    """
    parts = [tensor(name) for name in view.parts]
    if view.repeats:
        parts = [np.tile(part, (n, 1)) for part, n in zip(parts, view.repeats, strict=True)]
    stacked = _adjacent(parts)
    if stacked is None:
        stacked = np.concatenate(parts)
    if view.transposed:
        stacked = np.ascontiguousarray(stacked.T)
    return stacked.reshape(view.shape)


def _adjacent(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any] | None:
    """One view over arrays that follow each other in memory within one buffer, else None."""
    first = parts[0]
    if len(parts) == 1:
        return first
    end = first.ctypes.data + first.nbytes
    for part in parts[1:]:
        if part.ctypes.data != end or part.dtype != first.dtype:
            return None
        end += part.nbytes
    owner = first
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    offset = first.ctypes.data - owner.ctypes.data
    n_bytes = end - first.ctypes.data
    if not owner.flags.c_contiguous or offset < 0 or offset + n_bytes > owner.nbytes:
        return None
    flat = owner.reshape(-1).view(np.uint8)[offset : offset + n_bytes].view(first.dtype)
    return flat.reshape(sum(part.shape[0] for part in parts), *first.shape[1:])
