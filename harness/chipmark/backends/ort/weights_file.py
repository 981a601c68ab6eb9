"""Places every initializer of a graph: in the prepared file as it is, or inside the model.

A provider that is given a file and offsets maps it: no copy of the weights is made by handing
them over (arrays handed over in memory are copied once, which doubles the process's memory).
Views that the prepared file does not hold as they are (stacked biases, another dtype, codes in a
layout of an operator's own) go into a file of the cell's scratch folder when they are large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chipmark_models.onnx_graphs.builder import Graph, Placement, ViewForm, WeightView
from chipmark_models.onnx_graphs.decoder_graph import weight_array
from chipmark_models.onnx_graphs.quantised_linear import quantised_array
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
    array_of = _array_reader(weights, graph.dtype)
    inline = dict(graph.tables)
    large: list[WeightView] = []
    for view in graph.weights:
        if view.n_bytes < _INLINE_BYTES:
            inline[view.name] = array_of(view)
        else:
            large.append(view)
    if isinstance(weights, PreparedWeights):
        found = {view.name: _in_prepared(view, weights) for view in large}
        placements = {name: at for name, at in found.items() if at is not None}
        if len(placements) == len(large):
            return PlacedWeights(weights.folder, placements, inline)
    return PlacedWeights(scratch, _write_sidecar(large, array_of, scratch), inline)


ArrayOf = Callable[[WeightView], npt.NDArray[Any]]


def _array_reader(weights: PrecisionWeights, dtype: str) -> ArrayOf:
    """Arrays of views: values in the graph's dtype, as stored where that is the same, else
    widened; codes and scales in the layout of their operator."""
    tensor = weights.tensor if dtype == "float16" else weights.float32

    def array_of(view: WeightView) -> npt.NDArray[Any]:
        if view.form is ViewForm.VALUES:
            return weight_array(view, tensor)
        return quantised_array(view, [weights.quantised(part) for part in view.parts])

    return array_of


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
    views: list[WeightView], array_of: ArrayOf, scratch: Path
) -> dict[str, Placement]:
    placements: dict[str, Placement] = {}
    scratch.mkdir(parents=True, exist_ok=True)
    with (scratch / _SIDECAR).open("wb") as file:
        for view in views:
            file.seek(-(-file.tell() // _PAGE) * _PAGE)
            start = file.tell()
            array = array_of(view)
            file.write(array.reshape(-1).view(np.uint8).data)
            placements[view.name] = Placement(_SIDECAR, start, array.nbytes)
    return placements
