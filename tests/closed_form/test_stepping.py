"""The engine over simulated devices against the same run told again in plain Python."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chipmark.backends.sim.backend import SimBackend
from chipmark.backends.sim.spec import SPECS
from chipmark.closed_form.power import window_joules
from chipmark.closed_form.stepping import stepped
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
    SessionShape((TurnShape(90, 12, 0.003), TurnShape(41, 1), TurnShape(17, 4)), 2, 0),
]


def measure(spec, shapes, concurrency):
    trace = trial_trace(shapes, 200)
    backend = SimBackend(spec)
    loaded = backend.load(
        LoadSpec({}, "fp32", concurrency, trace.max_context_tokens, 8000, 32, reserved_slots=2)
    )
    tables = run(
        backend, trace, RunPlan(caps=loaded.caps, concurrency=concurrency, clock=backend.clock)
    ).tables
    want = stepped(trace, spec, clients=concurrency, max_chunk=32)
    return tables, want, backend


def by_turn(values):
    return sorted(values)


@pytest.mark.parametrize("concurrency", [1, 2, 3, 5])
@pytest.mark.parametrize("overhead_s", [0.0, 2e-4])
@pytest.mark.parametrize("name", ["golden", "slow", "golden-slots-none"])
def test_every_turn_and_launch_is_as_told_again(name, overhead_s, concurrency):
    spec = replace(SPECS[name], overhead_s=overhead_s)
    tables, want, _ = measure(spec, SHAPES, concurrency)
    start = tables["window"]["start_s"][0]
    assert tables["window"]["end_s"][0] - start == pytest.approx(want.window_s, rel=1e-9)
    turns = tables["turns"]
    measured = by_turn(
        zip(
            turns["session"].tolist(),
            turns["turn"].tolist(),
            (turns["intended_s"] - start).tolist(),
            (turns["first_token_s"] - start).tolist(),
            (turns["last_token_s"] - start).tolist(),
            turns["reused_tokens"].tolist(),
            strict=True,
        )
    )
    told = by_turn(
        (t.session.id, t.turn.index, t.sent_s, t.seen_s[0], t.seen_s[-1], t.found)
        for t in want.turns
    )
    np.testing.assert_allclose(np.array(measured), np.array(told), rtol=1e-9, atol=1e-9)
    launches = tables["launches"]
    assert launches["launch"].size == len(want.launches)
    kinds = ["decode" if PHASES[p] == "decode" else "prefill" for p in launches["phase"]]
    assert kinds == [launch.kind for launch in want.launches]
    assert launches["n_rows"].tolist() == [len(launch.rows) for launch in want.launches]
    np.testing.assert_allclose(
        launches["start_s"] - start, [x.start_s for x in want.launches], atol=1e-9
    )
    assert len(tables["steps"]["step"]) == want.steps


@pytest.mark.parametrize("name", ["golden-paged", "golden-slots", "golden-slots-none"])
def test_one_session_at_a_time_with_copies_and_steps_in_flight(name):
    tables, want, backend = measure(SPECS[name], SHAPES[:2], 1)
    start, end = tables["window"]["start_s"][0], tables["window"]["end_s"][0]
    assert end - start == pytest.approx(want.window_s, rel=1e-9)
    time_s, energy_j, _ = backend.power_samples()
    joules = float(np.diff(np.interp([start, end], time_s, energy_j))[0])
    assert joules == pytest.approx(window_joules(want, SPECS[name], start), rel=1e-9)
    copied = tables["turns"]["copied_tokens"].sum()
    kv = sum(x.end_s - x.start_s for x in want.launches if x.kind == "kv")
    assert kv == pytest.approx(copied * SPECS[name].copy_s)


def test_pulses_have_the_joules_of_their_constants():
    spec = SPECS["pulsed"]
    tables, want, backend = measure(spec, SHAPES, 3)
    start, end = tables["window"]["start_s"][0], tables["window"]["end_s"][0]
    joules = window_joules(want, spec, start)
    steady = window_joules(want, replace(spec, pulse_s=0.0, poll_s=0.0), start)
    assert joules != pytest.approx(steady, rel=1e-6)
    # The same integral by a reading of the moment every 10 microseconds.
    fine = SimBackend(replace(spec, poll_s=1e-5, sensor_s=0.0))
    fine._segments = backend._segments
    fine.clock.sleep_until(backend.clock.now())
    time_s, counter, power_w = fine.power_samples()
    assert np.isnan(counter).all()
    inside = (time_s >= start) & (time_s < end)
    assert power_w[inside].sum() * 1e-5 == pytest.approx(joules, rel=1e-3)


def test_a_turn_worked_by_hand():
    trace = trial_trace([SessionShape((TurnShape(3, 3),))], 10)
    spec = SPECS["golden"]
    want = stepped(trace, spec, clients=1, max_chunk=100)
    prefill_s = 3 * spec.prefill_s + (1 + 2 + 3) * spec.context_s
    first, second = (spec.decode_s + n * spec.context_s for n in (4, 5))
    (turn,) = want.turns
    assert turn.seen_s == pytest.approx([prefill_s, prefill_s + first, prefill_s + first + second])
    joules = prefill_s * spec.prefill_w + (first + second) * spec.decode_w
    assert window_joules(want, spec, 0.0) == pytest.approx(joules)


@pytest.mark.parametrize(
    ("name", "concurrency", "reason"),
    [
        ("golden-buckets", 1, "buckets"),
        ("golden-paged", 2, "in flight"),
        ("golden-mixed", 2, "mixed"),
        ("golden-slots", 2, "copied prefixes"),
    ],
)
def test_where_there_is_no_closed_form_the_reason_is_given(name, concurrency, reason):
    trace = trial_trace(SHAPES, 50)
    with pytest.raises(UsageError, match=reason):
        stepped(trace, SPECS[name], clients=concurrency, max_chunk=32)
