"""Processes of an arm: nothing of them is left, however they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from chipmark.ab.process import ArmFailedError, run_process
from chipmark.errors import UsageError

# A child in the group, one with a session of its own, and one that nobody is the parent of.
TREE = """
import os, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
pids = [subprocess.Popen(sleep).pid, subprocess.Popen(sleep, start_new_session=True).pid]
if os.fork() == 0:
    os.setsid()
    pids = [os.getpid()] + pids
    open(sys.argv[1] + ".tmp", "w").write(" ".join(map(str, pids)))
    os.rename(sys.argv[1] + ".tmp", sys.argv[1])
    time.sleep(60)
time.sleep(float(sys.argv[2]))
"""


def pids_of(path: Path) -> list[int]:
    deadline = time.monotonic() + 20
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return [int(p) for p in path.read_text().split()]


def alive(pids: list[int]) -> list[int]:
    return [p for p in pids if psutil.pid_exists(p) and psutil.Process(p).status() != "zombie"]


def test_exit_code_time_and_output(tmp_path):
    code = "print('hello'); raise SystemExit(3)"
    done = run_process([sys.executable, "-c", code], tmp_path, os.environ, 30, "x")
    assert (done.code, done.log) == (3, "hello\n")
    assert done.wall_s > 0


def test_what_a_finished_process_left_behind_is_ended(tmp_path):
    told = tmp_path / "pids"
    run_process([sys.executable, "-c", TREE, str(told), "1.5"], tmp_path, os.environ, 30, "arm A")
    pids = pids_of(told)
    assert len(pids) == 3
    assert alive(pids) == []


def test_the_limit_ends_the_tree(tmp_path):
    told = tmp_path / "pids"
    with pytest.raises(ArmFailedError, match="arm B, round 2: no end within 2 s"):
        run_process(
            [sys.executable, "-c", TREE, str(told), "60"], tmp_path, os.environ, 2, "arm B, round 2"
        )
    assert alive(pids_of(told)) == []


def test_a_program_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="cannot be started"):
        run_process([str(tmp_path / "none")], tmp_path, os.environ, 5, "arm A")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_everything_and_leaves_nothing(tmp_path, number):
    told, out = tmp_path / "pids", tmp_path / "out"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (tmp_path / "tree.py").write_text(TREE)
    arm = f"{sys.executable} tree.py {told} 60"
    # The script's entry point installs the handler of SIGTERM.
    command = [sys.executable, "-c", "from chipmark.cli.main import entry; entry()"]
    with subprocess.Popen(
        [*command, "ab", "--a", arm, "--b", arm + " 1", "-o", str(out)],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(scratch)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        pids = pids_of(told)
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert alive(pids) == []
    assert not out.exists()
    assert list(scratch.iterdir()) == []
    assert list(tmp_path.glob(".*partial")) == []
