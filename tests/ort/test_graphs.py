"""The graphs themselves: valid ONNX, standard operators only where it is promised, no copies."""

from __future__ import annotations

import numpy as np
import pytest

from chipmark.backends.ort.weights_file import place_weights
from chipmark_models.errors import UnknownNameError
from chipmark_models.onnx_graphs.builder import WeightView
from chipmark_models.onnx_graphs.decoder_graph import build_graph, weight_array
from chipmark_models.onnx_graphs.emitter import GraphShape
from chipmark_models.presets import preset
from chipmark_models.weights.prepared import ComputedWeights
from chipmark_models.weights.synthetic import SyntheticWeights

FREE = GraphShape(None, None, None, None, 64)
FIXED = GraphShape(2, 8, 32, 2, 64)
TINY = preset("tiny")
# Few and old: what providers take (of CANN, test_cann_operators.py asks types and versions too).
STANDARD = {
    "Add", "Cast", "Concat", "Div", "Gather", "Gemm", "Less", "LessOrEqual", "MatMul", "Mul",
    "Pow", "Range", "ReduceMean", "Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Split",
    "Sqrt", "Squeeze", "Tile", "Transpose", "Where",
}  # fmt: skip


def inline(graph, config=TINY):
    weights = SyntheticWeights(config, 7)
    arrays = dict(graph.tables)
    arrays |= {view.name: weight_array(view, weights.read) for view in graph.weights}
    return arrays


@pytest.mark.parametrize("shape", [FREE, FIXED], ids=["free", "fixed"])
def test_the_plain_graph_is_valid_and_standard(shape):
    onnx = pytest.importorskip("onnx")
    graph = build_graph(TINY, "plain", shape)
    model = onnx.load_from_string(graph.serialize({}, inline(graph)))
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} <= STANDARD
    assert {(o.domain, o.version) for o in model.opset_import} == {("", 15)}
    assert [i.name for i in model.graph.input] == [port.name for port in graph.inputs]


def test_the_plain_graph_never_concatenates_the_cache():
    graph = build_graph(TINY, "plain", FREE)
    for info in graph.nodes:
        cached = [name for name in info.inputs if name.startswith("past_")]
        assert not cached or info.op_type in ("Transpose", "MatMul", "Shape")


def test_a_fixed_graph_has_no_shape_arithmetic():
    ops = {info.op_type for info in build_graph(TINY, "plain", FIXED).nodes}
    assert not ops & {"Shape", "Range", "Slice", "Squeeze"}


def test_the_hash_follows_the_graph_and_not_the_run():
    first, again = (build_graph(TINY, "plain", FREE).hash for _ in range(2))
    assert first == again
    assert first != build_graph(TINY, "contrib", FREE).hash
    assert first != build_graph(TINY, "plain", FIXED).hash


def test_an_unknown_level_gets_near_ones():
    with pytest.raises(UnknownNameError, match="contrib"):
        build_graph(TINY, "contri", FREE)


def test_tensors_side_by_side_are_stacked_without_a_copy():
    memory = np.arange(24, dtype=np.float32)
    parts = {"a": memory[:8].reshape(2, 4), "b": memory[8:20].reshape(3, 4)}
    view = WeightView("ab", ("a", "b"), (5, 4), "float32")
    stacked = weight_array(view, parts.__getitem__)
    assert np.shares_memory(stacked, memory)
    np.testing.assert_array_equal(stacked, memory[:20].reshape(5, 4))
    apart = WeightView("ba", ("b", "a"), (5, 4), "float32")
    np.testing.assert_array_equal(
        weight_array(apart, parts.__getitem__), np.concatenate([parts["b"], parts["a"]])
    )


def test_large_weights_are_read_from_the_prepared_file(prepared, tmp_path):
    import dataclasses

    config = dataclasses.replace(TINY, name="wide", hidden_size=512, intermediate_size=1024)
    _, weights = prepared(config)
    graph = build_graph(config, "plain", FREE)
    placed = place_weights(graph, weights, tmp_path)
    assert placed.folder == weights.folder
    assert not list(tmp_path.iterdir())
    fused = next(name for name in placed.placements if name.endswith("gate_up_proj.weight"))
    at = placed.placements[fused]
    found = np.fromfile(placed.folder / at.location, np.float32, at.length // 4, offset=at.offset)
    prefix = fused.removesuffix("gate_up_proj.weight")
    expected = [weights.tensor(f"{prefix}{name}_proj.weight") for name in ("gate", "up")]
    np.testing.assert_array_equal(found, np.concatenate([part.ravel() for part in expected]))


def test_computed_weights_are_written_once_into_the_scratch_folder(tmp_path):
    import dataclasses

    config = dataclasses.replace(TINY, name="wide", hidden_size=512, intermediate_size=1024)
    source = SyntheticWeights(config, 7)
    graph = build_graph(config, "plain", FREE)
    placed = place_weights(graph, ComputedWeights(source, "bf16"), tmp_path)
    assert placed.folder == tmp_path
    name = "model.layers.0.mlp.down_proj.weight"
    at = placed.placements[name]
    found = np.fromfile(tmp_path / at.location, np.float32, at.length // 4, offset=at.offset)
    np.testing.assert_array_equal(found.reshape(512, 1024), source.read(name))
