"""A measuring process that hangs, dies or loses its device costs one step and leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chipmark.errors import MissingBackendError

FAR = 1e9


@pytest.fixture
def worker(kernel_bench):
    with kernel_bench.supervisor.Worker("fake_bench:Misbehaving", {}) as found:
        yield found


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_steps_come_back_by_name_and_an_error_is_a_result(worker) -> None:
    answer = worker.ask({"words": ["ok", "raise", "ok"]}, 60, FAR)
    assert answer.ended == "done"
    assert list(answer.parts) == ["0 ok", "1 raise", "2 ok"]
    assert answer.parts["1 raise"] == {"error": "ValueError: does not compile"}
    assert answer.parts["0 ok"]["pid"] == worker.identity["pid"]


def test_a_step_that_hangs_is_ended_alone_and_the_next_request_goes_on(worker) -> None:
    first = worker.identity["pid"]
    answer = worker.ask({"words": ["ok", "hang", "ok"]}, 0.5, FAR)
    assert (answer.ended, answer.step) == ("late", "1 hang")
    assert answer.reason == "over its time of 0.5 s"
    assert list(answer.parts) == ["0 ok"]
    assert not _alive(first)
    again = worker.ask({"words": ["ok"]}, 60, FAR)
    assert again.ended == "done"
    assert again.parts["0 ok"]["pid"] != first


def test_the_end_of_the_calls_time_is_not_the_steps_fault(worker) -> None:
    answer = worker.ask({"words": ["hang"]}, 60, time.monotonic() + 0.5)
    assert (answer.ended, answer.step) == ("budget", "0 hang")


def test_a_crash_and_a_lost_device_are_told_and_another_process_takes_over(worker) -> None:
    crash = worker.ask({"words": ["ok", "die"]}, 60, FAR)
    assert (crash.ended, crash.step) == ("died", "1 die")
    assert "SIGSEGV" in crash.reason
    lost = worker.ask({"words": ["lose", "ok"]}, 60, FAR)
    assert (lost.ended, lost.step) == ("lost", "0 lose")
    assert "illegal memory access" in lost.parts["0 lose"]["error"]
    assert worker.ask({"words": ["ok"]}, 60, FAR).ended == "done"


def test_what_is_printed_while_measuring_stays_off_stdout(worker, capfd) -> None:
    assert worker.ask({"words": ["print"]}, 60, FAR).ended == "done"
    worker.stop()
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(("start", "told"), [("raise", "no driver"), ("die", "exit code 9")])
def test_a_process_that_cannot_start_says_why(start, told, kernel_bench) -> None:
    worker = kernel_bench.supervisor.Worker("fake_bench:Misbehaving", {"start": start})
    with pytest.raises(MissingBackendError, match=told):
        worker.start()
    assert worker._process is None


def test_an_interrupt_leaves_no_process(kernel_bench, monkeypatch) -> None:
    def interrupted(*_):
        raise KeyboardInterrupt

    pids = []

    def call() -> None:
        with kernel_bench.supervisor.Worker("fake_bench:Misbehaving", {}) as worker:
            pids.append(worker.identity["pid"])
            monkeypatch.setattr(type(worker._pipe), "poll", interrupted)
            worker.ask({"words": ["ok"]}, 60, FAR)

    with pytest.raises(KeyboardInterrupt):
        call()
    assert not _alive(pids[0])


def _call(out, *options):
    here = Path(__file__).parent
    roots = ("kernels", "models", "harness")
    path = [str(here / "benches"), *(str(here.parents[1] / root) for root in roots)]
    return subprocess.Popen(
        [sys.executable, str(here / "benches" / "hanging_call.py"), "-o", str(out), *options],
        env=dict(os.environ) | {"PYTHONPATH": os.pathsep.join(path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _rows(out) -> list[dict]:
    return json.loads(out.read_text())["rows"] if out.exists() else []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_call_that_is_interrupted_in_a_hanging_case_is_130_and_leaves_a_whole_file(
    number, tmp_path
) -> None:
    out = tmp_path / "out.json"
    call = _call(out)
    until = time.monotonic() + 60
    while not _rows(out) and call.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    call.send_signal(number)
    _, told = call.communicate(timeout=30)
    assert call.returncode == 130, told
    assert "interrupted" in told
    assert len(_rows(out)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    assert not _alive(_rows(out)[0]["parity"]["pid"])


@pytest.mark.long
def test_a_hanging_case_is_a_row_and_the_others_are_measured(tmp_path) -> None:
    out = tmp_path / "out.json"
    call = _call(out, "--step-s", "3", "--kernels", "prefill_attention", "--format", "json")
    document, told = call.communicate(timeout=120)
    assert call.returncode == 1, told
    found = json.loads(document)
    assert found["left"] == 0
    assert [v["problem"] for v in found["verdicts"]] == ["", "over its time of 3 s"] + [""] * 4
    times = [row.get("time", {}).get("ours", {}).get("median_s") for row in _rows(out)]
    assert times == [1e-3, None] + [1e-3] * 4
    # It is not tried again: this call has no time in which it could hang.
    again = _call(out, "--step-s", "600", "--kernels", "prefill_attention")
    try:
        again.communicate(timeout=60)
    finally:
        again.kill()
    assert again.returncode == 1
