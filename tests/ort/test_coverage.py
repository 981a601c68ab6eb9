"""Shares of work by the nodes that a provider took."""

from __future__ import annotations

import dataclasses

import pytest

from chipmark.backends.ort.coverage import Assignment, coverage, node_work
from chipmark_models.onnx_graphs.decoder_graph import build_graph
from chipmark_models.onnx_graphs.emitter import GraphShape
from chipmark_models.onnx_graphs.quantised_linear import QuantisedForm, QuantisedOperator
from chipmark_models.presets import preset

CONFIG = preset("smollm2-135m")
SHAPE = GraphShape(None, None, None, None, 4096)


@pytest.fixture(scope="module", params=["plain", "standard", "contrib"])
def work(request):
    graph = build_graph(CONFIG, request.param, SHAPE)
    return graph, node_work(graph, CONFIG, batch=1, chunk=1, context=2048)


def test_taking_all_is_one_and_nothing_is_zero(work):
    _, costs = work
    names = tuple(costs)
    assert coverage(costs, [Assignment("ep", names)], "ep") == pytest.approx(1.0)
    assert coverage(costs, [Assignment("CPUExecutionProvider", names)], "ep") == 0.0
    assert coverage(costs, [], "ep") == 0.0


def test_the_work_of_a_decode_step_is_that_of_the_model(work):
    graph, costs = work
    n_bytes = sum(cost.n_bytes for cost in costs.values())
    flops = sum(cost.flops for cost in costs.values())
    parameters = 134_515_008
    kv = 2 * 30 * 3 * 64 * 2048 * 4
    # Four operators of `plain` read and write scores of all keys; others keep them inside.
    scores = 30 * 4 * 2 * 9 * 2049 * 4 if graph.level == "plain" else 0
    assert n_bytes == pytest.approx(parameters * 4 + kv + scores, rel=0.03)
    attention = 4 * 30 * 9 * 64 * 2048
    assert flops == pytest.approx(2 * parameters + attention, rel=0.02)


@pytest.mark.parametrize("operator", list(QuantisedOperator))
@pytest.mark.parametrize("precision", ["w8", "w4"])
def test_quantised_weights_count_as_they_are_stored(precision, operator):
    shape = dataclasses.replace(SHAPE, quantised=QuantisedForm(precision, operator))
    graph = build_graph(CONFIG, "contrib", shape)
    costs = node_work(graph, CONFIG, batch=1, chunk=1, context=2048)
    stored = sum(view.n_bytes for view in graph.weights)
    kv = 2 * 30 * 3 * 64 * 2048 * 4
    assert sum(cost.n_bytes for cost in costs.values()) == pytest.approx(stored + kv, rel=0.03)
    flops = sum(cost.flops for cost in costs.values())
    assert flops == pytest.approx(2 * 134_515_008 + 4 * 30 * 9 * 64 * 2048, rel=0.02)


def test_weights_that_are_unpacked_on_the_cpu_are_seen():
    form = QuantisedForm("w4", QuantisedOperator.DEQUANTIZE_LINEAR)
    graph = build_graph(CONFIG, "plain", dataclasses.replace(SHAPE, quantised=form))
    costs = node_work(graph, CONFIG, batch=1, chunk=1, context=512)
    left = {info.name for info in graph.nodes if info.op_type == "DequantizeLinear"}
    parts = [
        Assignment("ep", tuple(name for name in costs if name not in left)),
        Assignment("CPUExecutionProvider", tuple(left)),
    ]
    assert 0.5 < coverage(costs, parts, "ep") < 0.8


def test_attention_left_on_the_cpu_counts_by_bytes(work):
    graph, costs = work
    left = {
        info.name
        for info in graph.nodes
        if info.op_type.endswith("Attention") or any("past_" in name for name in info.inputs)
    }
    parts = [
        Assignment("ep", tuple(name for name in costs if name not in left)),
        Assignment("CPUExecutionProvider", tuple(left)),
    ]
    assert 0.5 < coverage(costs, parts, "ep") < 0.95


def test_rows_written_by_the_graph_are_bytes_and_no_flops():
    graph = build_graph(CONFIG, "standard", SHAPE)
    costs = node_work(graph, CONFIG, batch=2, chunk=8, context=512)
    scatters = [costs[info.name] for info in graph.nodes if info.op_type == "TensorScatter"]
    assert len(scatters) == 2 * CONFIG.n_layers
    assert {(cost.flops, cost.n_bytes) for cost in scatters} == {(0.0, 2 * 2 * 8 * 3 * 64 * 4.0)}


@pytest.mark.parametrize("left", [True, False])
def test_an_operator_that_is_written_out_counts_by_where_its_parts_ran(left):
    graph = build_graph(CONFIG, "standard", SHAPE)
    costs = node_work(graph, CONFIG, batch=1, chunk=1, context=2048)
    named = tuple(name for name in costs if not name.startswith("Attention"))
    parts = [Assignment("ep", named), Assignment("ep", ("",))]
    assert coverage(costs, parts, "ep") == pytest.approx(1.0)
    parts.append(Assignment("CPUExecutionProvider" if left else "ep", ("",)))
    share = coverage(costs, parts, "ep")
    assert share < 0.95 if left else share == pytest.approx(1.0)


def test_norms_left_on_the_cpu_are_seen():
    graph = build_graph(CONFIG, "plain", SHAPE)
    costs = node_work(graph, CONFIG, batch=1, chunk=1, context=512)
    left = {info.name for info in graph.nodes if info.op_type in ("Pow", "Sqrt", "Div", "Add")}
    parts = [
        Assignment("ep", tuple(name for name in costs if name not in left)),
        Assignment("CPUExecutionProvider", tuple(left)),
    ]
    assert coverage(costs, parts, "ep") < 1.0


def test_a_provider_that_takes_nothing_says_so_in_its_row(helpers, prepared, tmp_path, monkeypatch):
    from chipmark.backends.ort import session as session_module

    shape = GraphShape(None, None, None, None, 764)
    names = tuple(info.name for info in build_graph(preset("tiny"), "contrib", shape).nodes)
    opened = []
    real = session_module._open

    def refuse(model, placed, located, settings, *, whole):
        if whole:
            raise RuntimeError("graph nodes are assigned to the default CPU EP")
        opened.append(located.ep_name)
        from dataclasses import replace

        return real(
            model, placed, replace(located, ep_name="CPUExecutionProvider"), settings, whole=False
        )

    from dataclasses import replace

    from chipmark.backends.ort import backend as backend_module

    monkeypatch.setattr(session_module, "_open", refuse)
    # The session is one of the CPU under another name here, which is otherwise refused.
    monkeypatch.setattr("chipmark.backends.ort.loading.refuse_substitute", lambda *_: None)
    real_locate = backend_module.locate
    monkeypatch.setattr(
        backend_module,
        "locate",
        lambda provider: replace(real_locate(provider), ep_name="AnotherExecutionProvider"),
    )
    monkeypatch.setattr(
        session_module,
        "read_assignment",
        lambda session: (Assignment("CPUExecutionProvider", names),),
    )
    driver = helpers.Driver("cpu", prepared(preset("tiny"))[0], tmp_path)
    assert driver.loaded.ep_coverage == 0.0
    assert [code for code, _ in driver.loaded.notes] == ["ep_coverage"]
    assert "AnotherExecutionProvider took 0%" in driver.loaded.notes[0][1]
    assert opened
