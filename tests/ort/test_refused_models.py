"""Model bytes that the runtime cannot take cost the cell, in the runtime's own words.

chipmark writes its graphs itself; what it is given (a folder of weights that was changed under it,
a disk that lost the end of a file) can still make them impossible.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from chipmark.backends.ort.providers import find_provider, locate
from chipmark.backends.ort.session import SessionSettings, open_session
from chipmark.backends.ort.weights_file import PlacedWeights
from chipmark.errors import CellFailedError
from chipmark_models.onnx_graphs.builder import Graph, GraphBuilder, Placement, WeightView
from chipmark_models.presets import preset

SIZE = 64
BYTES = 4 * SIZE * SIZE


def graph_of(width: int = SIZE) -> Graph:
    builder = GraphBuilder()
    x = builder.input("x", "float32", (1, width))
    view = WeightView("w", ("w",), (SIZE, SIZE), "float32")
    y = builder.op("MatMul", [x, builder.weight(view)])
    builder.output(y, "float32", (1, SIZE))
    return builder.build("one product", "plain", "float32")


def opened(graph: Graph, folder: Path, at: Placement) -> object:
    settings = SessionSettings(1, {}, prepacking=True, spinning=False, scratch=folder)
    placed = PlacedWeights(folder, {"w": at}, {})
    return open_session(graph, placed, locate(find_provider("cpu")), settings, preset("tiny"))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    for path in (folder / "w.bin", tmp_path / "outside.bin"):
        path.write_bytes(np.eye(SIZE, dtype=np.float32).tobytes())
    return folder


def test_weights_inside_their_folder_are_read(weights: Path) -> None:
    assert opened(graph_of(), weights, Placement("w.bin", 0, BYTES))


@pytest.mark.parametrize(
    ("location", "offset"),
    [("../outside.bin", 0), ("missing.bin", 0), ("w.bin", 4096), ("w.bin", 1 << 40)],
)
def test_weights_elsewhere_or_cut_short_are_refused(
    weights: Path, location: str, offset: int
) -> None:
    with pytest.raises(CellFailedError, match="does not load the graph one product") as refused:
        opened(graph_of(), weights, Placement(location, offset, BYTES))
    assert "\n" not in refused.value.message


def test_a_graph_whose_shapes_do_not_fit_is_refused(weights: Path) -> None:
    with pytest.raises(CellFailedError, match="does not load the graph one product"):
        opened(graph_of(width=SIZE - 1), weights, Placement("w.bin", 0, BYTES))


@pytest.mark.parametrize("kept", [0, 20, 120])
def test_model_bytes_that_were_cut_are_refused(
    weights: Path, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Graph.serialize
    monkeypatch.setattr(Graph, "serialize", lambda *given: whole(*given)[:kept])
    with pytest.raises(CellFailedError, match="does not load the graph"):
        opened(dataclasses.replace(graph_of(), name="cut"), weights, Placement("w.bin", 0, BYTES))
