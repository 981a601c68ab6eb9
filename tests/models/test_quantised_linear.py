"""Codes and scales in the layouts of ONNX operators, and the graphs that hold them."""

from __future__ import annotations

import numpy as np
import pytest

from chipmark_models.onnx_graphs.builder import GraphBuilder, ViewForm
from chipmark_models.onnx_graphs.decoder_graph import build_graph
from chipmark_models.onnx_graphs.emitter import GraphShape
from chipmark_models.onnx_graphs.quantised_linear import (
    QuantisedForm,
    QuantisedOperator,
    quantised_array,
    quantised_product,
)
from chipmark_models.precision import kept_matrices, tensor_bytes
from chipmark_models.presets import preset
from chipmark_models.weights.quantise import fuse, quantise

NBITS, BLOCKS = QuantisedOperator.MATMUL_NBITS, QuantisedOperator.DEQUANTIZE_LINEAR


def views_of(form, n, k, parts=("a",)):
    builder = GraphBuilder(21)
    x = builder.input("x", "float32", (1, k))
    quantised_product(builder, form, x, "m", parts, (n, k))
    return builder.weights["m.weight"], builder.weights["m.weight_scale"], builder


def random_matrix(n, k):
    return np.random.default_rng(n + k).standard_normal((n, k)).astype(np.float32)


@pytest.mark.parametrize("k", [128, 192, 96])
@pytest.mark.parametrize("operator", list(QuantisedOperator))
@pytest.mark.parametrize("precision", ["w8", "w4"])
def test_the_layout_stands_for_the_very_weights_of_the_oracle(precision, operator, k):
    parts = [quantise(random_matrix(n, k), precision) for n in (8, 16)]
    form = QuantisedForm(precision, operator)
    codes, scales, _ = views_of(form, 24, k, ("a", "b"))
    array, by_group = (quantised_array(view, parts) for view in (codes, scales))
    assert array.nbytes == codes.n_bytes
    assert by_group.nbytes == scales.n_bytes
    assert by_group.shape == scales.shape
    assert (codes.n_weights, scales.n_weights) == (24 * k, 0)
    if precision == "w4":
        array = np.stack([array & 15, array >> 4], -1).astype(np.int64)
        array = array - 8 if operator is NBITS else (array ^ 8) - 8
    elif operator is NBITS:
        assert array.dtype == np.uint8
        array = array.astype(np.int64) - 128
    wide = array.reshape(24, by_group.shape[1], -1) * by_group[:, :, None]
    np.testing.assert_array_equal(wide.reshape(24, k), fuse(parts).dequantise())


@pytest.mark.parametrize("level", [0, 4])
def test_the_accuracy_level_is_always_written(level):
    onnx = pytest.importorskip("onnx")
    config = preset("smollm2-135m")
    form = QuantisedForm("w8", NBITS, level)
    _, _, builder = views_of(form, 8, 64)
    (node,) = (onnx.NodeProto.FromString(raw) for raw in builder.nodes)
    told = {a.name: a.i for a in node.attribute}
    assert told == {"K": 64, "N": 8, "bits": 8, "block_size": 64, "accuracy_level": level}
    graph = build_graph(config, "contrib", GraphShape(None, None, None, None, 64, quantised=form))
    nodes = [info for info in graph.nodes if info.op_type == "MatMulNBits"]
    assert len(nodes) == 4 * config.n_layers
    assert sum(info.op_type == "Gemm" for info in graph.nodes) == 1  # the head


@pytest.mark.parametrize("precision", ["w8", "w4"])
def test_blocks_are_standard_onnx(precision):
    onnx = pytest.importorskip("onnx")
    weights = quantise(random_matrix(8, 96), precision)
    codes, scales, builder = views_of(QuantisedForm(precision, BLOCKS), 8, 96)
    builder.output(builder.infos[-1].outputs[0], "float32", (1, 8))
    graph = builder.build("m", "plain", "float32")
    inline = {view.name: quantised_array(view, [weights]) for view in (codes, scales)}
    model = onnx.load_from_string(graph.serialize({}, inline))
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 21)]
    assert model.ir_version == 10
    held = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    wanted = weights.codes().reshape(8, 96)
    np.testing.assert_array_equal(held[codes.name].astype(np.int64), wanted)


@pytest.mark.parametrize("level", ["plain", "contrib"])
def test_a_graph_of_blocks_is_valid(level):
    onnx = pytest.importorskip("onnx")
    config, form = preset("tiny"), QuantisedForm("w4", BLOCKS)
    shape = GraphShape(None, None, None, None, 64, quantised=form)
    graph = build_graph(config, level, shape)
    inline = dict(graph.tables)
    for view in graph.weights:
        size = view.shape if view.dtype != "int4" else (view.n_bytes,)
        dtype = "uint8" if view.dtype == "int4" else view.dtype
        inline[view.name] = np.zeros(size, dtype)
    model = onnx.load_from_string(graph.serialize({}, inline))
    if level == "plain":
        onnx.checker.check_model(model, full_check=True)
    kept = kept_matrices(config, "w4")
    kept_views = [v for v in graph.weights if v.parts[0] in kept]
    assert kept_views
    assert {view.form for view in kept_views} == {ViewForm.VALUES}


def test_codes_and_scales_take_what_the_precision_says():
    n, k = 24, 128
    for precision in ("w8", "w4"):
        codes, scales, _ = views_of(QuantisedForm(precision, NBITS), n, k)
        # The stored scales are bf16; the operators take float32.
        assert codes.n_bytes + scales.n_bytes // 2 == tensor_bytes(precision, "m", (n, k))
