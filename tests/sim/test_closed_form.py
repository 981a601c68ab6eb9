from __future__ import annotations

import numpy as np
import pytest

from chipmark.backends.sim.backend import SimBackend
from chipmark.backends.sim.closed_form import expected
from chipmark.backends.sim.spec import SPECS
from chipmark.engine.contract import PHASES, LoadSpec
from chipmark.engine.loop import run
from chipmark.engine.plan import RunPlan
from chipmark.engine.trial import SessionShape, TurnShape, trial_trace
from chipmark.errors import UsageError

SHAPES = [
    SessionShape((TurnShape(5, 9, 0.5), TurnShape(12, 5, 0.25), TurnShape(70, 3)), 0, 100),
    SessionShape((TurnShape(21, 3, 0.125), TurnShape(3, 6)), 0, 100),
    SessionShape((TurnShape(2, 7, 1.0), TurnShape(33, 2)), 1, 50),
    SessionShape((TurnShape(37, 1, 0.0), TurnShape(8, 8)), 1, 50),
]


def without_tools(shapes):
    return [
        SessionShape(tuple(TurnShape(t.own, t.n_out) for t in s.turns), s.group, s.shared)
        for s in shapes
    ]


def measure(name, shapes, concurrency):
    trace = trial_trace(shapes, 200)
    backend = SimBackend(name)
    loaded = backend.load(
        LoadSpec({}, "fp32", concurrency, trace.max_context_tokens, 8000, 32, reserved_slots=2)
    )
    tables = run(
        backend, trace, RunPlan(caps=loaded.caps, concurrency=concurrency, clock=backend.clock)
    ).tables
    want = expected(trace, SPECS[name], concurrency=concurrency, max_chunk=32)
    return tables, want, backend


def seconds(tables, *phases):
    launches = tables["launches"]
    which = np.isin(launches["phase"], [PHASES.index(phase) for phase in phases])
    return float((launches["end_s"] - launches["start_s"])[which].sum())


def check_totals(tables, want):
    prefill = seconds(tables, "prefill_cold", "prefill_append", "prefill_refill")
    assert prefill == pytest.approx(want.prefill_s, rel=1e-9)
    assert seconds(tables, "decode") == pytest.approx(want.decode_s, rel=1e-9)
    turns = tables["turns"]
    assert turns["prefilled_tokens"].sum() == want.prefill_tokens
    assert turns["reused_tokens"].sum() == want.reused_tokens


def energy(backend, start_s, end_s):
    time_s, energy_j, _ = backend.power_samples()
    return float(np.diff(np.interp([start_s, end_s], time_s, energy_j))[0])


@pytest.mark.parametrize("name", ["golden", "golden-paged", "golden-slots-none"])
def test_one_session_at_a_time_is_as_computed_by_hand(name):
    tables, want, backend = measure(name, SHAPES, 1)
    check_totals(tables, want)
    assert tables["launches"]["launch"].size == want.launches
    window = tables["window"]
    start, end = window["start_s"][0], window["end_s"][0]
    assert end - start == pytest.approx(want.window_s, rel=1e-9)
    assert energy(backend, start, end) == pytest.approx(want.energy_j, rel=1e-9)


def test_prefix_copies_cost_beside_the_closed_form():
    tables, want, _ = measure("golden-slots", SHAPES, 1)
    check_totals(tables, want)
    assert want.window_s is None
    copied = tables["turns"]["copied_tokens"].sum()
    assert seconds(tables, "kv") == pytest.approx(copied * SPECS["golden-slots"].copy_s)


@pytest.mark.parametrize("concurrency", [2, 4])
@pytest.mark.parametrize("name", ["golden", "golden-slots-none"])
def test_without_overhead_batching_changes_no_total(name, concurrency):
    tables, want, backend = measure(name, without_tools(SHAPES), concurrency)
    check_totals(tables, want)
    window = tables["window"]
    start, end = window["start_s"][0], window["end_s"][0]
    assert end - start == pytest.approx(want.window_s, rel=1e-9)
    assert energy(backend, start, end) == pytest.approx(want.energy_j, rel=1e-9)


def test_a_turn_worked_by_hand():
    trace = trial_trace([SessionShape((TurnShape(3, 3),))], 10)
    want = expected(trace, SPECS["golden"], concurrency=1, max_chunk=100)
    spec = SPECS["golden"]
    assert want.prefill_s == pytest.approx(3 * spec.prefill_s + (1 + 2 + 3) * spec.context_s)
    assert want.decode_s == pytest.approx(2 * spec.decode_s + (4 + 5) * spec.context_s)
    joules = want.prefill_s * spec.prefill_w + want.decode_s * spec.decode_w
    assert want.energy_j == pytest.approx(joules)


@pytest.mark.parametrize(
    ("name", "concurrency", "reason"),
    [
        ("golden-buckets", 1, "buckets"),
        ("golden-paged", 2, "overhead"),
        ("golden-mixed", 2, "mixed"),
    ],
)
def test_where_there_is_no_closed_form_it_is_said(name, concurrency, reason):
    trace = trial_trace(SHAPES, 50)
    with pytest.raises(UsageError, match=reason):
        expected(trace, SPECS[name], concurrency=concurrency, max_chunk=32)
