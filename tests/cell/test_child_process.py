from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from chipmark.cell.logits import load_logits
from chipmark.cell.parent import ChildProcess
from chipmark.cell.parity import closed_rule_errors, parity_trace
from chipmark.cell.protocol import ChildSpec, Clock, Load
from chipmark.engine.events import load_events
from chipmark.errors import CellFailedError
from chipmark.processes import LOG_BYTES
from chipmark.workload.trace import save_trace

LIMIT_S = 60.0


def _child(spec: ChildSpec, folder: Path, fault: str = "") -> ChildProcess:
    if fault:
        spec = dataclasses.replace(spec, backend=f"sim:faulty-{fault}")
    return ChildProcess(spec.to_json(), folder / "child")


def _run(folder: Path, **changes: object) -> dict[str, object]:
    save_trace(parity_trace(512), folder / "trace.npz")
    return {
        "trace": str(folder / "trace.npz"),
        "events": str(folder / "events.npz"),
        "concurrency": 3,
        "scenario": "equal_n",
        "deadline_s": 60.0,
        **changes,
    }


def _comes(true: Callable[[], bool]) -> bool:
    """Whether it becomes true while one waits: signals are delivered in their own time."""
    return any(true() or time.sleep(0.01) for _ in range(1000))


def _gone(pid: int, within_s: float = 5.0) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_child_loads_runs_probes_and_closes(sim_spec: ChildSpec, tmp_path: Path) -> None:
    with _child(sim_spec, tmp_path) as child:
        loaded = child.ask("load", LIMIT_S)
        assert loaded["caps"]["kv"] == "paged"
        assert loaded["peak_rss_bytes"] > 1 << 20
        assert child.ask("probe", LIMIT_S, read_bytes=1000, precision="fp32")["read"] == 1e12
        answer = child.ask("run", LIMIT_S, **_run(tmp_path, power=str(tmp_path / "power.npz")))
        assert answer["turns"] == answer["turns_done"] == 6
        assert answer["complete"]
        assert len(load_events(tmp_path / "events.npz")["turns"]["turn"]) == 6
        with np.load(tmp_path / "power.npz") as power:
            assert (np.diff(power["energy_j"]) >= 0).all()
        idle = child.ask("idle", LIMIT_S, seconds=0.1)
        assert idle["end_s"] - idle["start_s"] >= 0.1
        pid = child.pid
        child.close(LIMIT_S)
        assert _gone(pid)


def test_parity_rows_are_those_of_the_closed_rule(sim_spec: ChildSpec, tmp_path: Path) -> None:
    trace = parity_trace(512)
    save_trace(trace, tmp_path / "trace.npz")
    out = tmp_path / "logits.npz"
    with _child(sim_spec, tmp_path) as child:
        child.ask("load", LIMIT_S)
        child.ask("parity", LIMIT_S, trace=str(tmp_path / "trace.npz"), out=str(out), concurrency=3)
    measured = load_logits(out)
    assert len(measured.keys) == trace.totals.n_out
    assert closed_rule_errors(trace, measured) == ""
    measured.logits[3] = -measured.logits[3]
    assert closed_rule_errors(trace, measured).startswith("1 sampled ids")


def test_errors_come_with_type_message_and_hint(
    faults: None, sim_spec: ChildSpec, tmp_path: Path
) -> None:
    with _child(sim_spec, tmp_path, "noload") as child:
        with pytest.raises(CellFailedError, match="UnknownNameError") as caught:
            child.ask("load", LIMIT_S)
        assert caught.value.hint == "try golden"
        with pytest.raises(CellFailedError, match="before it had loaded"):
            child.ask("run", LIMIT_S, **_run(tmp_path))


def test_wrong_command_and_field_are_named(sim_spec: ChildSpec, tmp_path: Path) -> None:
    with _child(sim_spec, tmp_path) as child:
        with pytest.raises(CellFailedError, match="command of the child 'dance'"):
            child.ask("dance", LIMIT_S)
        child.ask("load", LIMIT_S)
        with pytest.raises(CellFailedError, match=r"concurrncy.*did you mean concurrency"):
            child.ask("run", LIMIT_S, **_run(tmp_path), concurrncy=3)


def test_an_answer_of_another_type_ends_the_child_and_names_the_field(
    faults: None, sim_spec: ChildSpec, tmp_path: Path
) -> None:
    with _child(sim_spec, tmp_path, "wordless") as child:
        with pytest.raises(CellFailedError, match="load: the child answers device: 3 is not str"):
            child.request(Load(), LIMIT_S)
        assert _gone(child.pid)


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ('{"error": "x"}', r"answers error\.type: is missing"),
        ('{"error": null}', r"answers error\.type: is missing"),
        ('{"error": {"type": "E", "message": 3}}', r"answers error\.message: 3 is not str"),
        ('{"ok": 3}', "neither ok nor error"),
        ('{"ok": {"now_s": "1"}}', "clock: the child answers now_s: '1' is not float"),
        ('{"ok": {"now_s": 1, "then": 2}}', "clock: the child answers then: unknown field"),
        ("[]", "not an object"),
        ("{", "not JSON"),
    ],
)
def test_an_answer_that_cannot_be_fails_the_cell_and_no_other(
    faults: None, tmp_path: Path, answer: str, what: str
) -> None:
    with (
        ChildProcess(answer, tmp_path, module="odd_child") as child,
        pytest.raises(CellFailedError, match=what),
    ):
        child.request(Clock(), LIMIT_S)


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("crash", "killed by SIGSEGV"),
        ("raise", "RuntimeError: the provider gave up"),
        ("garbage", "exit code 7"),
    ],
)
def test_a_fault_in_the_middle_says_what_happened(
    faults: None, sim_spec: ChildSpec, tmp_path: Path, fault: str, what: str
) -> None:
    with _child(sim_spec, tmp_path, fault) as child:
        child.ask("load", LIMIT_S)
        with pytest.raises(CellFailedError, match=what):
            child.ask("run", LIMIT_S, **_run(tmp_path))
    if fault == "garbage":
        assert b"a word before the end" in child.log.tail()


def test_a_hang_is_ended_at_the_limit(faults: None, sim_spec: ChildSpec, tmp_path: Path) -> None:
    with _child(sim_spec, tmp_path, "hang") as child:
        child.ask("load", LIMIT_S)
        with pytest.raises(CellFailedError, match="no answer within 1 s"):
            child.ask("run", 1.0, **_run(tmp_path))
        assert _gone(child.pid)


def test_a_flood_is_ended_and_its_log_is_cut(
    faults: None, sim_spec: ChildSpec, tmp_path: Path
) -> None:
    with _child(sim_spec, tmp_path, "flood") as child:
        with pytest.raises(CellFailedError, match="flooded its output"):
            child.ask("load", LIMIT_S)
        tail = child.log.tail()
    assert len(tail) <= LOG_BYTES + 100
    assert tail.startswith(b"[")
    assert b"only the end is kept" in tail


def test_killing_takes_grandchildren_in_sessions_of_their_own(
    faults: None, sim_spec: ChildSpec, tmp_path: Path
) -> None:
    with _child(sim_spec, tmp_path, "family") as child:
        child.ask("load", LIMIT_S)
        family = psutil.Process(child.pid).children(recursive=True)
        assert len(family) == 1
        child.kill()
    assert _gone(family[0].pid)
    assert b"a word on stdout" in child.log.tail()


@pytest.mark.parametrize("fault", ["family", "orphan"])
def test_parking_takes_what_left_the_process_group(
    faults: None, sim_spec: ChildSpec, tmp_path: Path, fault: str
) -> None:
    with _child(sim_spec, tmp_path, fault) as child:
        child.ask("load", LIMIT_S)
        (member,) = psutil.Process(child.pid).children(recursive=True)
        child.park()
        assert _comes(lambda: member.status() == psutil.STATUS_STOPPED)
        child.wake()
        assert _comes(lambda: member.status() != psutil.STATUS_STOPPED)
    assert _gone(member.pid)


def test_a_killed_child_is_told_by_its_signal(
    faults: None, sim_spec: ChildSpec, tmp_path: Path
) -> None:
    with _child(sim_spec, tmp_path, "slow") as child:
        child.ask("load", LIMIT_S)
        child.send("run", **_run(tmp_path))
        time.sleep(0.3)
        os.kill(child.pid, 9)
        with pytest.raises(CellFailedError, match="killed by SIGKILL"):
            child.answer(LIMIT_S)


def test_a_parked_child_uses_no_cpu_and_goes_on_when_asked(
    sim_spec: ChildSpec, tmp_path: Path
) -> None:
    with _child(sim_spec, tmp_path) as child:
        child.ask("load", LIMIT_S)
        child.park()
        process = psutil.Process(child.pid)
        time.sleep(0.1)
        assert process.status() == psutil.STATUS_STOPPED
        child.ask("probe", LIMIT_S, read_bytes=1, precision="fp32")
        assert process.status() != psutil.STATUS_STOPPED


def test_an_interpreter_that_is_not_there_is_a_failed_cell(
    sim_spec: ChildSpec, tmp_path: Path
) -> None:
    with pytest.raises(CellFailedError, match="cannot be started"):
        ChildProcess(sim_spec.to_json(), tmp_path / "c", python="/nowhere/python3")
