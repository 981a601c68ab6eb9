"""The `plain` graph at fixed sizes against what Huawei publishes of CANN: names, types, versions.

Nothing here ran on an Ascend. The table says what the documents say; what they leave out and the
graph uses is named in the table with its reason, and must be all of it.
"""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest

from chipmark_models.onnx_graphs.decoder_graph import build_graph, weight_array
from chipmark_models.onnx_graphs.emitter import GraphShape
from chipmark_models.weights.synthetic import SyntheticWeights

onnx = pytest.importorskip("onnx")

TABLE = tomllib.loads(
    (Path(__file__).parents[1] / "data" / "cann_operators.toml").read_text(encoding="utf-8")
)
FAMILIES = ("llama", "llama-biases", "mistral", "qwen2", "qwen3", "ernie4_5")
SHAPES = {
    "prompt": GraphShape(1, 8, 32, 1, 64),
    "decode": GraphShape(1, 1, 32, 1, 64),
    "decode of several": GraphShape(3, 1, 32, 3, 64),
}
FREE = GraphShape(None, None, None, None, 64)
SIZES = {"Reshape": (1,), "Split": (1,), "Tile": (1,), "Unsqueeze": (1,)}
"""Inputs that say a shape, sizes or axes: int64 by the standard, constants in these graphs."""


def onnx_model(config, level, shape, dtype):
    graph = build_graph(config, level, dataclasses.replace(shape, dtype=dtype))
    weights = SyntheticWeights(config, 7)
    arrays = dict(graph.tables)
    for view in graph.weights:
        arrays[view.name] = weight_array(view, weights.read).astype(view.dtype)
    return onnx.load_from_string(graph.serialize({}, arrays))


def left_by_cann(model) -> dict[str, set[str]]:
    """What the two gates leave of a model: operator to the reasons, a type's name for a type."""
    (opset,) = (entry.version for entry in model.opset_import if not entry.domain)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    constants = {tensor.name: tensor.data_type for tensor in inferred.initializer}
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values} | constants
    left: dict[str, set[str]] = {}
    for node in model.graph.node:
        known = TABLE["operators"].get(node.op_type)
        reasons = left.setdefault(node.op_type, set())
        if node.domain or known is None:
            reasons.add("not listed")
            continue
        if opset > known["last"]:
            reasons.add(f"not listed for opset {opset}")
        if len(node.input) > known.get("inputs", len(node.input)):
            reasons.add("too many inputs")
        if all(name in constants for name in node.input):
            reasons.add("constants only")
        for index, name in enumerate(node.input):
            if index in SIZES.get(node.op_type, ()):
                continue
            is_index = index == 1 and "indices" in known
            allowed = known["indices"] if is_index else known["types"]
            found = "a type that nothing tells"
            if name in types:
                found = onnx.helper.tensor_dtype_to_np_dtype(types[name]).name
            is_condition = node.op_type == "Where" and index == 0
            if not is_condition and found not in allowed:
                reasons.add(found)
    return {op_type: reasons for op_type, reasons in left.items() if reasons}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_plain_graph_of_fixed_sizes_is_on_the_list(family, dtype, shape, helpers):
    model = onnx_model(helpers.family_config(family), "plain", SHAPES[shape], dtype)
    expected = {op_type: {dtype} for op_type in TABLE["unlisted"].get(dtype, {})}
    assert left_by_cann(model) == expected


def test_the_plain_graph_stays_at_a_version_that_old_builds_take(helpers):
    model = onnx_model(helpers.family_config("qwen3"), "plain", SHAPES["prompt"], "float16")
    assert [entry.version for entry in model.opset_import] == [TABLE["newest_of_old_builds"]]


def test_what_is_not_on_the_list_is_found(helpers):
    config = helpers.family_config("qwen2")
    assert {"Attention", "TensorScatter", "RotaryEmbedding", "RMSNormalization"} <= set(
        left_by_cann(onnx_model(config, "standard", SHAPES["prompt"], "float16"))
    )
    assert "GroupQueryAttention" in left_by_cann(onnx_model(config, "contrib", FREE, "float16"))
    free = left_by_cann(onnx_model(config, "plain", FREE, "float16"))
    assert free["Gemm"] == {"too many inputs"}
    assert free["LessOrEqual"] == {"int32"}
    newer = onnx_model(config, "plain", SHAPES["prompt"], "float16")
    newer.opset_import[0].version = 17
    assert left_by_cann(newer)["ReduceMean"] == {"not listed for opset 17"}


def test_nothing_is_excused_that_the_list_has():
    for dtype, reasons in TABLE["unlisted"].items():
        for op_type, reason in reasons.items():
            assert dtype not in TABLE["operators"][op_type]["types"]
            assert len(reason) > 40
