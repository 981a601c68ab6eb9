from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

FAULTS = Path(__file__).parents[1] / "cell" / "faults"


def _start(out: Path, backend: str) -> subprocess.Popen[bytes]:
    paths = [str(FAULTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(
        [sys.executable, "-m", "chipmark.entry", "run", "quick", "-b", backend, "-o", str(out)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _wait_for_first_repeat(out: Path, run: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while not list(out.glob(".raw-*/*/repeat-0")):
        assert run.poll() is None, run.stderr.read().decode() if run.stderr else ""
        assert time.monotonic() < end, "the run never reached its first repeat"
        time.sleep(0.05)


def _all_gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=10)
    return all(p.status() == psutil.STATUS_ZOMBIE for p in alive)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_leaves_no_child_and_no_half_record(
    tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "runs"
    run = _start(out, "sim:faulty-slow")
    _wait_for_first_repeat(out, run)
    children = psutil.Process(run.pid).children(recursive=True)
    assert children
    run.send_signal(number)
    _, err = run.communicate(timeout=30)
    assert run.returncode == 128 + number
    assert err.count(b"interrupted by") == 1
    assert b"Traceback" not in err
    assert _all_gone(children)
    assert list(out.iterdir()) == []


def test_a_killed_run_takes_its_children_along_and_the_next_one_sweeps(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    run = _start(out, "sim:faulty-slow")
    _wait_for_first_repeat(out, run)
    children = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.communicate(timeout=30)
    assert _all_gone(children)
    assert not list(out.rglob("record.json"))
    assert list(out.glob(".raw-*"))
    following = _start(out, "sim:golden")
    _, err = following.communicate(timeout=90)
    assert following.returncode == 0, err.decode()
    assert not list(out.glob(".raw-*"))
    assert len(list(out.glob("*/record.json"))) == 1


def test_a_child_killed_in_the_middle_fails_its_cell_only(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    run = _start(out, "sim:faulty-slow")
    _wait_for_first_repeat(out, run)
    (supervisor,) = psutil.Process(run.pid).children()
    (child,) = supervisor.children()
    child.kill()
    _, err = run.communicate(timeout=60)
    assert run.returncode == 4
    assert b"killed by SIGKILL" in err
    assert len(list(out.glob("*/record.json"))) == 1
    assert not list(out.glob(".raw-*"))
