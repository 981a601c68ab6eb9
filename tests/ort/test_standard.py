"""The `standard` level: what it is made of, that it writes the cache in place, and its refusal."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest

from chipmark.backends.ort import providers
from chipmark.errors import CellFailedError
from chipmark_models.onnx_graphs import decoder_graph
from chipmark_models.onnx_graphs.decoder_graph import build_graph, weight_array
from chipmark_models.onnx_graphs.emitter import GraphShape
from chipmark_models.onnx_graphs.standard import StandardEmitter
from chipmark_models.presets import preset
from chipmark_models.weights.prepared import WeightSpec, open_any, prepare
from chipmark_models.weights.source import WeightRef
from chipmark_models.weights.synthetic import SyntheticWeights

TINY = preset("tiny")
SHAPES = {
    "free": GraphShape(None, None, None, None, 64),
    "decode": GraphShape(2, 1, 32, 2, 64),
    "prompt": GraphShape(1, 8, 32, 1, 64),
}
FAMILIES = ("llama", "llama-biases", "mistral", "qwen2", "qwen3", "ernie4_5")


def serialized(graph, config=TINY) -> bytes:
    weights = SyntheticWeights(config, 7)
    arrays = dict(graph.tables)
    for view in graph.weights:
        arrays[view.name] = weight_array(view, weights.read).astype(view.dtype)
    return graph.serialize({}, arrays)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_is_valid_onnx_of_opset_24(family, shape, dtype, helpers):
    onnx = pytest.importorskip("onnx")
    config = helpers.family_config(family)
    graph = build_graph(config, "standard", dataclasses.replace(SHAPES[shape], dtype=dtype))
    model = onnx.load_from_string(serialized(graph, config))
    onnx.checker.check_model(model, full_check=True)
    assert {(o.domain, o.version) for o in model.opset_import} == {("", 24)}
    assert model.ir_version == 10
    counts = Counter(node.op_type for node in model.graph.node)
    n = config.n_layers
    norms = 2 * n + 1 + (2 * n if config.qk_norm else 0)
    assert {op: counts[op] for op in ("Attention", "TensorScatter", "RotaryEmbedding")} == {
        "Attention": n,
        "TensorScatter": 2 * n,
        "RotaryEmbedding": 2 * n,
    }
    assert counts["RMSNormalization"] == norms
    assert not {"MatMul", "Softmax", "Pow", "Sqrt"} & set(counts)


def test_the_opset_of_the_other_levels_is_what_old_runtimes_know():
    for level in ("plain", "contrib"):
        assert build_graph(TINY, level, SHAPES["free"]).opset == 15
    assert build_graph(TINY, "standard", SHAPES["free"]).opset == 24


def test_one_new_token_needs_no_mask():
    ops = {info.op_type for info in build_graph(TINY, "standard", SHAPES["decode"]).nodes}
    assert not ops & {"Where", "LessOrEqual", "Shape", "Range"}


def test_scattering_into_one_memory_copies_no_cache(capfd):
    import onnxruntime as ort

    graph = build_graph(TINY, "standard", SHAPES["decode"])
    so = ort.SessionOptions()
    so.log_severity_level = 2  # the operator warns where it copies what it was given
    session = ort.InferenceSession(serialized(graph), so, providers=["CPUExecutionProvider"])

    def warned(aliased: bool) -> bool:
        io = session.io_binding()
        held: list[np.ndarray[Any, Any]] = []
        for port in graph.inputs:
            array = np.zeros(port.shape, port.dtype)
            held.append(array)
            io.bind_cpu_input(port.name, array)
            if port.name.startswith("past_"):
                target = array if aliased else np.zeros_like(array)
                held.append(target)
                name = port.name.replace("past_", "present_")
                io.bind_output(name, "cpu", 0, target.dtype.type, target.shape, target.ctypes.data)
        io.bind_output("logits", "cpu")
        session.run_with_iobinding(io)
        assert all(np.isfinite(array).all() for array in held)
        return "in-place" in capfd.readouterr().err

    if not warned(aliased=False):
        pytest.skip(f"onnxruntime {ort.__version__} does not tell when it copies a cache")
    assert not warned(aliased=True)


def test_the_cache_is_bound_as_input_and_as_output(helpers, prepared, tmp_path):
    spec, _ = prepared(TINY)
    driver = helpers.Driver("cpu", spec, tmp_path, options={"graph": "standard"})
    engine = driver.backend._loaded()
    bound: dict[str, int] = {}

    class Recorder:
        def bind_input(self, name, device, index, dtype, shape, address):
            bound[name] = address

        bind_output = bind_input

    engine.cache.bind(Recorder(), 1, 3)
    for layer in range(TINY.n_layers):
        for index, kind in enumerate(("key", "value")):
            address = engine.cache.host[layer, index, 1:3].ctypes.data
            assert bound[f"past_{kind}_{layer}"] == bound[f"present_{kind}_{layer}"] == address


@pytest.mark.parametrize("options", [{}, {"static": True}], ids=["free", "static"])
@pytest.mark.parametrize(("limit", "filled"), [(90, 90), (300, 256)], ids=["context", "capacity"])
def test_a_full_slot_rides_along_unharmed(helpers, prepared, tmp_path, options, limit, filled):
    oracle = pytest.importorskip("chipmark_models.oracle")
    spec, weights = prepared(TINY)
    rng = np.random.default_rng(5)
    sequences = [rng.integers(0, TINY.vocab_size, n) for n in (41, filled)]
    reference = oracle.Oracle(TINY, weights.float32).logits(sequences)
    options = {"graph": "standard"} | options
    driver = helpers.Driver("cpu", spec, tmp_path, options=options, max_context=limit, n_seqs=3)
    driver.prefill(0, 0, sequences[0][:40])
    done = driver.prefill(1, 0, sequences[1])  # a chunk of it is padded where sizes are fixed
    np.testing.assert_allclose(done.logits[11], reference[1][-1], atol=1e-4)
    driver.prefill(2, 0, sequences[0][:40])
    step = sequences[0][40:41]
    done = driver.run([0, 2], [40, 40], [step, step])
    for seq in (10, 12):
        np.testing.assert_allclose(done.logits[seq], reference[0][40], atol=1e-4)
    again = driver.run([1], [filled - 1], [sequences[1][-1:]])
    np.testing.assert_allclose(again.logits[11], reference[1][-1], atol=1e-4)
    assert (again.kv_copied_bytes, again.h2d_bytes) == (0, 0)


def test_rows_of_padding_have_room(helpers, prepared, tmp_path, monkeypatch):
    oracle = pytest.importorskip("chipmark_models.oracle")
    find = providers.find_provider
    buckets = {"chunk_buckets": (64,), "context_buckets": (128, 256)}
    monkeypatch.setattr(
        "chipmark.backends.ort.backend.find_provider",
        lambda name: dataclasses.replace(find(name), **buckets),
    )
    spec, weights = prepared(TINY)
    tokens = np.random.default_rng(5).integers(0, TINY.vocab_size, 120)
    reference = oracle.Oracle(TINY, weights.float32).logits([tokens])[0]
    options = {"graph": "standard"}
    driver = helpers.Driver("cpu", spec, tmp_path, options=options, max_context=150)
    driver.prefill(0, 0, tokens[:64])
    done = driver.prefill(0, 64, tokens[64:110])  # written up to row 128: it fits
    np.testing.assert_allclose(done.logits[10], reference[109], atol=1e-4)
    assert done.kv_copied_bytes == 0
    done = driver.prefill(0, 110, tokens[110:])  # written up to row 174
    np.testing.assert_allclose(done.logits[10], reference[119], atol=1e-4)
    assert done.kv_copied_bytes == 110 * driver.backend._loaded().cache.token_bytes


def test_half_precision_matches_the_oracle(helpers, tmp_path, monkeypatch):
    oracle = pytest.importorskip("chipmark_models.oracle")
    find = providers.find_provider
    monkeypatch.setattr(
        "chipmark.backends.ort.backend.find_provider",
        lambda name: dataclasses.replace(find(name), precisions=("fp16",)),
    )
    config = helpers.family_config("qwen3")
    source = SyntheticWeights(config, seed=7)
    ref = WeightRef("synthetic", config.name, None, 7)
    spec = WeightSpec(ref, "fp16", str(prepare(ref, "fp16", tmp_path, source=source).folder))
    tokens = np.random.default_rng(5).integers(0, config.vocab_size, 80)
    reference = oracle.Oracle(config, open_any(spec).float32).logits([tokens])[0]
    driver = helpers.Driver(
        "cpu", spec.to_dict(), tmp_path, options={"graph": "standard"}, precision="fp16"
    )
    assert driver.loaded.graph == "standard"
    found = [driver.prefill(0, 0, tokens[:79]).logits[10]]
    found.append(driver.run([0], [79], [tokens[79:]]).logits[10])
    difference = np.abs(np.stack(found) - reference[78:]).max()
    assert 0.0 < difference < 0.02  # the logits' deviation is 2.5; half precision has 11 bits


@pytest.mark.parametrize("level", ["plain", "standard"])
def test_an_opset_that_the_runtime_lacks_is_refused_in_its_own_words(
    level, helpers, prepared, tmp_path, monkeypatch
):
    monkeypatch.setattr(decoder_graph, "STANDARD_OPSET", 999)
    monkeypatch.setattr(decoder_graph, "OPSET", 999)
    with pytest.raises(CellFailedError) as caught:
        helpers.Driver("cpu", prepared(TINY)[0], tmp_path, options={"graph": level})
    message = caught.value.message
    assert "CPUExecutionProvider of onnxruntime" in message
    assert f"does not load the graph tiny-{level} (opset 999)" in message
    assert "Current official support for domain ai.onnx is till opset" in message
    assert ("ort:graph=plain" in caught.value.hint) == (level == "standard")


def test_an_operator_that_the_runtime_lacks_is_refused_and_no_other_level_is_tried(
    helpers, prepared, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        StandardEmitter, "norm", lambda self, x, weight: self.builder.op("NormOfTomorrow", [x])
    )
    built = []
    build = decoder_graph.build_graph

    def counted(config, level, shape):
        built.append(level)
        return build(config, level, shape)

    monkeypatch.setattr("chipmark.backends.ort.opener.build_graph", counted)
    with pytest.raises(CellFailedError, match="NormOfTomorrow") as caught:
        helpers.Driver("cpu", prepared(TINY)[0], tmp_path, options={"graph": "standard"})
    assert "graph=plain" in caught.value.hint
    assert set(built) == {"standard"}
