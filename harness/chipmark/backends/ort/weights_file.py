"""Places every initializer of a graph: in the prepared file as it is, or inside the model.

A provider that is given a file and offsets maps it: no copy of the weights is made by handing
them over (arrays handed over in memory are copied once, which doubles the process's memory).
Views that the prepared file does not hold as they are (stacked biases, another dtype) go into a
file of the cell's scratch folder when they are large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chipmark_models.onnx_graphs.builder import Graph, Placement, WeightView
from chipmark_models.onnx_graphs.decoder_graph import weight_array
from chipmark_models.weights.prepared import PrecisionWeights, PreparedWeights

_INLINE_BYTES = 1 << 20
_PAGE = 4096
_SIDECAR = "weights.bin"


@dataclass(frozen=True, slots=True)
class PlacedWeights:
    """`folder` of the external data; `placements` by initializer name; `inline` arrays."""

    folder: Path
    placements: dict[str, Placement]
    inline: dict[str, npt.NDArray[Any]]


def place_weights(graph: Graph, weights: PrecisionWeights, scratch: Path) -> PlacedWeights:
    """Find or write the external data of `graph`; tables go inside the model."""
    tensor = tensor_reader(weights, graph.dtype)
    inline = dict(graph.tables)
    large: list[WeightView] = []
    for view in graph.weights:
        if _n_bytes(view) < _INLINE_BYTES:
            inline[view.name] = weight_array(view, tensor)
        else:
            large.append(view)
    if isinstance(weights, PreparedWeights):
        found = {view.name: _in_prepared(view, weights) for view in large}
        placements = {name: at for name, at in found.items() if at is not None}
        if len(placements) == len(large):
            return PlacedWeights(weights.folder, placements, inline)
    return PlacedWeights(scratch, _write_sidecar(large, tensor, scratch), inline)


def tensor_reader(weights: PrecisionWeights, dtype: str) -> Callable[[str], npt.NDArray[Any]]:
    """Tensors in the graph's dtype: as stored where that is the same, else widened."""
    if dtype == "float16":
        return weights.tensor
    return weights.float32


def _n_bytes(view: WeightView) -> int:
    return int(np.prod(view.shape)) * np.dtype(view.dtype).itemsize


def _in_prepared(view: WeightView, weights: PreparedWeights) -> Placement | None:
    stored = {"fp32": "float32", "fp16": "float16"}.get(weights.precision)
    if view.transposed or view.repeats or stored != view.dtype:
        return None
    start = end = weights.offset(view.parts[0])
    for part in view.parts:
        if weights.offset(part) != end:
            return None
        end += weights.n_bytes(part)
    return Placement(weights.path.name, start, end - start)


def _write_sidecar(
    views: list[WeightView], tensor: Callable[[str], npt.NDArray[Any]], scratch: Path
) -> dict[str, Placement]:
    placements: dict[str, Placement] = {}
    scratch.mkdir(parents=True, exist_ok=True)
    with (scratch / _SIDECAR).open("wb") as file:
        for view in views:
            file.seek(-(-file.tell() // _PAGE) * _PAGE)
            start = file.tell()
            array = weight_array(view, tensor)
            file.write(array.reshape(-1).view(np.uint8).data)
            placements[view.name] = Placement(_SIDECAR, start, array.nbytes)
    return placements
