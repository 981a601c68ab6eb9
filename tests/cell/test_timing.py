"""A run of a real child by the parent's own clock."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from chipmark.cell.child import Child
from chipmark.cell.parent import ChildProcess
from chipmark.cell.protocol import Run
from chipmark.cell.timing import timed_run
from chipmark.engine.events import load_events
from chipmark.engine.trial import SessionShape, TurnShape, trial_trace
from chipmark.workload.trace import save_trace


@pytest.fixture
def arguments(tmp_path: Path) -> dict[str, object]:
    save_trace(trial_trace([SessionShape((TurnShape(20, 4),))], 512), tmp_path / "trace.npz")
    return {
        "trace": str(tmp_path / "trace.npz"),
        "events": str(tmp_path / "events.npz"),
        "concurrency": 1,
        "scenario": "equal_n",
        "deadline_s": 60.0,
    }


def test_a_run_is_stamped_by_the_parent(sim_spec, tmp_path, arguments) -> None:
    began = time.perf_counter()
    with ChildProcess(sim_spec.to_json(), tmp_path / "child") as child:
        child.ask("load", 60)
        answer, timing = timed_run(child, 60, Run(**arguments), 60)
        again, cut = timed_run(
            child, 60, Run(**arguments | {"deadline_s": 0.001, "captured": "x"}), 60
        )
    stamps = [
        began,
        *timing.clock_before,
        timing.sent_s,
        timing.started_s,
        timing.ended_s,
        timing.answered_s,
        *timing.clock_after,
        cut.sent_s,
        time.perf_counter(),
    ]
    assert stamps == sorted(stamps)
    assert answer.complete
    assert timing.complete
    assert not timing.captured
    assert (again.complete, cut.complete, cut.captured) == (False, False, True)
    window = load_events(tmp_path / "events.npz")["window"]
    assert window["simulated"].tolist() == [1]


def test_a_mark_that_comes_twice_counts_once(sim_spec, tmp_path, arguments) -> None:
    with ChildProcess(sim_spec.to_json(), tmp_path / "child") as child:
        child.ask("load", 60)
        child.send("run", **arguments)
        child._buffer += b'{"mark": "ended"}\n'  # the child's own comes after it has started
        child.answer(60)
        assert set(child.marks) == {"started", "ended"}
        assert child.marks["ended"] < child.marks["started"] <= child.answered_s


def test_a_roof_that_cannot_be_probed_is_null_and_no_failure(sim_spec) -> None:
    child = Child(sim_spec, lambda message: None)
    child.answer("load", "{}")
    child.backend.probe_read = lambda n_bytes: None
    answer = child.answer("probe", '{"read_bytes": 1000, "precision": "fp32"}')
    assert answer["read"] is None
    assert answer["matmul"] > 0
