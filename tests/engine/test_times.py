"""What the engine writes down of a run by its own clock, and what it refuses of a backend."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from chipmark.backends.sim.backend import SimBackend
from chipmark.backends.sim.cells import context_hash, two_largest
from chipmark.backends.sim.spec import SPECS
from chipmark.engine.clock import VirtualClock
from chipmark.engine.conformance import conformance_load
from chipmark.engine.contract import PHASES
from chipmark.engine.loop import run
from chipmark.engine.plan import RunPlan
from chipmark.engine.plugins import virtual_clock
from chipmark.engine.times import slack_s
from chipmark.engine.trial import SessionShape, TurnShape, trial_trace

TRACE = trial_trace([SessionShape((TurnShape(20, 4), TurnShape(5, 3)))] * 3, 50)
TIMES = ("submit_s", "submitted_s", "wait_s", "visible_s")


def run_sim(backend, clock=None, **changes):
    loaded = backend.load(conformance_load({"vocab_size": 50}))
    return run(backend, TRACE, RunPlan(caps=loaded.caps, concurrency=2, clock=clock, **changes))


@pytest.mark.parametrize("name", ["golden", "golden-paged"])
def test_steps_are_timed_around_both_calls_of_the_backend(name):
    backend = SimBackend(name)
    tables = run_sim(backend, backend.clock).tables
    steps, launches, window = (tables[n] for n in ("steps", "launches", "window"))
    times = np.stack([steps[name] for name in TIMES])
    assert (np.diff(times, axis=0) >= 0).all()
    # The virtual clock stands still but in wait, which moves it to the end of the step's launches.
    assert (steps["submit_s"] == steps["submitted_s"]).all()
    ends = [launches["end_s"][launches["step"] == step].max() for step in steps["step"]]
    assert steps["visible_s"].tolist() == ends
    assert window["simulated"].tolist() == [1]
    assert window["entered_s"][0] == 0.0
    assert window["left_s"][0] == ends[-1] == window["end_s"][0]


def test_without_the_harness_choosing_another_the_clock_is_the_hosts():
    class Lies(SimBackend):
        def wait(self):
            time.sleep(0.001)
            return super().wait()

    began = time.perf_counter()
    tables = run_sim(Lies("golden")).tables
    ended = time.perf_counter()
    steps, window = tables["steps"], tables["window"]
    assert began <= window["entered_s"][0] <= steps["submit_s"][0]
    assert steps["visible_s"][-1] <= window["left_s"][0] <= ended
    assert (steps["visible_s"] - steps["wait_s"] >= 0.001).all()
    assert window["simulated"].tolist() == [0]
    turns = tables["turns"]
    assert np.isin(turns["first_token_s"], steps["visible_s"]).all()


def test_only_the_built_in_simulated_device_has_a_virtual_clock():
    class Derived(SimBackend):
        pass

    backend = SimBackend("golden")
    assert virtual_clock("sim:golden", backend) is backend.clock
    assert virtual_clock("fast:golden", backend) is None
    assert virtual_clock("sim:golden", Derived("golden")) is None
    other = type("Other", (), {"clock": VirtualClock(), "simulated": True})()
    assert virtual_clock("sim:golden", other) is None


def test_the_two_largest_logits_are_stored_with_the_ids():
    backend = SimBackend("golden")
    rows = run_sim(backend, backend.clock).tables["rows"]
    seen = rows["sampled"] >= 0
    assert np.isnan(rows["best_logit"][~seen]).all()
    by_id = {session.id: session for session in TRACE.sessions}
    for at in np.flatnonzero(seen):
        session = by_id[int(rows["session"][at])]
        turn = session.turns[int(rows["turn"][at])]
        ids = np.concatenate([session.prompt(turn), session.output(turn)])
        end = int(rows["start"][at] + rows["n_tokens"][at])
        expected = two_largest(np.array([context_hash(ids[:end])], np.uint64))[0]
        assert [rows["best_logit"][at], rows["second_logit"][at]] == expected.tolist()
    assert np.unique(rows["second_logit"][seen]).size > 0.9 * np.unique(rows["sampled"][seen]).size


@pytest.mark.parametrize(
    ("name", "positions"),
    [("golden", None), ("golden-slots", None), ("golden-buckets", "buckets")],
)
def test_positions_are_the_useful_ones_unless_buckets_are_padded_to(name, positions):
    backend = SimBackend(name)
    launches = run_sim(backend, backend.clock).tables["launches"]
    real = launches["phase"] != PHASES.index("kv")
    padded = launches["batch_bucket"].astype(np.int64) * launches["chunk_bucket"]
    expected = padded if positions else launches["n_tokens"]
    assert (launches["n_positions"][real] == expected[real]).all()
    assert positions is None or (padded[real] > launches["n_tokens"][real]).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: replace(d, top2=None), "top2 is none"),
        (lambda d: replace(d, top2=d.top2[:, :1]), "top2 is an array"),
        (lambda d: replace(d, sampled=d.sampled[:0], top2=d.top2[:0]), "0 ids for 2 sampled"),
        (
            lambda d: replace(d, launches=tuple(replace(x, positions=1) for x in d.launches)),
            "20 tokens cannot compute 1",
        ),
        (
            lambda d: replace(
                d, launches=(*d.launches, replace(d.launches[-1], phase="kv", plan=-1))
            ),
            "1 kv launches reported for 0 copies",
        ),
    ],
)
def test_an_answer_that_does_not_fit_its_step_is_refused(change, message):
    class Broken(SimBackend):
        def wait(self):
            return change(super().wait())

    backend = Broken(SPECS["golden"])
    with pytest.raises(ValueError, match=message):
        run_sim(backend, backend.clock)


def test_positions_that_a_backend_says_itself_are_kept():
    class Rides(SimBackend):
        def wait(self):
            done = super().wait()
            return replace(done, launches=tuple(replace(x, positions=77) for x in done.launches))

    backend = Rides("golden")
    launches = run_sim(backend, backend.clock).tables["launches"]
    assert set(launches["n_positions"].tolist()) == {77}


def test_slack_of_a_device_is_the_larger_of_both():
    seconds = np.array([0.001, 0.2])
    assert slack_s("host", seconds).tolist() == [1e-6, 1e-6]
    assert slack_s("device", seconds).tolist() == pytest.approx([50e-6, 200e-6])
