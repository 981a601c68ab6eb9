"""The one home of processes: output that is drained, groups, families, how one ended."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from chipmark import processes
from chipmark.processes import LogTail, family_of, how_it_ended, signal_group


def started(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def test_the_end_of_a_long_output_is_kept_from_the_start_of_a_line(monkeypatch):
    monkeypatch.setattr(processes, "LOG_BYTES", 1000)
    process = started("for i in range(100_000): print(i)")
    assert process.stdout is not None
    log = LogTail(process.stdout)
    process.wait()
    log.join()
    lines = log.tail().decode().splitlines()
    assert lines[0].endswith("bytes in all; only the end is kept]")
    assert lines[1:] == [str(i) for i in range(100_000 - len(lines) + 1, 100_000)]
    assert len(log.tail()) < 1100


def test_a_flood_is_seen(monkeypatch):
    monkeypatch.setattr(processes, "FLOOD_BYTES", 1000)
    process = started("print('x' * 2000)")
    assert process.stdout is not None
    log = LogTail(process.stdout)
    process.wait()
    log.join()
    assert log.flooded


def test_a_signal_reaches_the_whole_group_and_a_group_that_has_ended_is_no_error():
    process = started(
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    (child,) = family_of(process.pid)
    assert signal_group(process.pid, signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 10
    while child.is_running() and child.status() != "zombie" and time.monotonic() < until:
        time.sleep(0.01)
    assert not child.is_running() or child.status() == "zombie"
    process.stdout.close()
    assert family_of(process.pid) == []


def test_how_a_process_ended_is_in_words():
    assert how_it_ended(7) == "ended with exit code 7"
    assert how_it_ended(-9) == "was killed by SIGKILL"
