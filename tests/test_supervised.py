"""Programs below a supervisor: their answers and signals are their own, and nothing outlives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from chipmark.supervised import MARK, Supervised, marked, run_supervised

SLEEP = "import time; time.sleep(120)"
STOPPED_WITH_A_DAEMON = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(120)"], {})
    os._exit(0)
os.wait()
print("ready", flush=True)
os.killpg(0, signal.SIGSTOP)
"""
PARENT = """
import os, sys, time
from chipmark.supervised import Supervised
program = Supervised([sys.executable, "-c", sys.argv[1]], os.environ)
program.process.stdout.readline()
print("started", flush=True)
time.sleep(120)
"""


def becomes(true: Callable[[], bool], within_s: float = 20.0) -> bool:
    end = time.monotonic() + within_s
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def alive(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found


def below(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


@pytest.fixture
def start():
    programs: list[Supervised] = []

    def started(code: str) -> Supervised:
        programs.append(Supervised([sys.executable, "-S", "-c", code], os.environ))
        return programs[-1]

    yield started
    for program in programs:
        program.end()
        assert program.process.stdout is not None
        program.process.stdout.close()


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("raise SystemExit(7)", "ended with exit code 7"),
        ("import os; os.kill(os.getpid(), 11)", "was killed by SIGSEGV"),
    ],
)
def test_how_it_ended_is_the_program_s(start, code: str, how: str) -> None:
    assert start(code).how_it_ended(30.0) == how


def test_one_that_runs_on_has_no_end(start) -> None:
    program = start(SLEEP)
    assert program.code(0.0) is None
    assert program.how_it_ended(0.1) == ""


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        Supervised(["/nowhere/program"], os.environ)


def test_it_leads_a_session_that_its_supervisor_is_not_in(start) -> None:
    program = start(SLEEP)
    assert os.getsid(program.pid) == os.getpgid(program.pid) == program.pid
    assert os.getsid(program.process.pid) == program.process.pid


def test_a_stop_passes_the_supervisor_by_and_an_end_does_not_need_a_wake(start) -> None:
    program = start(SLEEP)
    supervisor = psutil.Process(program.process.pid)
    assert program.signal(signal.SIGSTOP)
    assert becomes(lambda: psutil.Process(program.pid).status() == psutil.STATUS_STOPPED)
    assert supervisor.status() != psutil.STATUS_STOPPED
    pids = [program.pid, supervisor.pid]
    program.end()
    assert alive(pids) == []


def test_an_end_takes_a_daemon_and_a_stopped_group_along(start) -> None:
    program = start(STOPPED_WITH_A_DAEMON)
    assert program.process.stdout.readline() == b"ready\n"
    pids = below(program.process.pid)
    assert len(pids) == 2
    program.end()
    assert alive(pids) == []


def test_a_killed_parent_takes_a_daemon_and_a_stopped_group_along() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, STOPPED_WITH_A_DAEMON], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        pids = below(parent.pid)
        assert len(pids) == 3
        parent.kill()
    assert becomes(lambda: alive(pids) == [])


def test_a_killed_supervisor_leaves_nothing_that_an_end_does_not_find(start) -> None:
    code = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {SLEEP!r}], "
    code += f"start_new_session=True)\nprint('ready', flush=True)\n{SLEEP}"
    program = start(code)
    assert program.process.stdout.readline() == b"ready\n"
    pids = below(program.process.pid)
    assert len(pids) == 2
    program.process.kill()
    program.end()
    assert alive(pids) == []
    assert program.code(0.0) == -signal.SIGKILL


def test_what_it_closes_is_closed(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    code = f"import os, time; os.close({writer}); time.sleep(120)"
    program = Supervised([sys.executable, "-S", "-c", code], os.environ, pass_fds=(writer,))
    os.close(writer)
    assert os.read(reader, 1) == b""  # no other process holds an end of it
    assert program.code(0.0) is None
    program.end()
    os.close(reader)
    assert program.process.stdout is not None
    program.process.stdout.close()


def test_a_signal_is_handed_on_while_the_parent_lives(start) -> None:
    code = "import signal, sys, time\n"
    code += "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\nprint('ready', flush=True)\n"
    program = start(code + "time.sleep(120)")
    assert program.process.stdout.readline() == b"ready\n"
    program.end(ask_s=30.0)
    assert program.code(0.0) == 9


def test_output_code_and_limit_of_one_that_is_waited_for() -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(5)"
    done = run_supervised([sys.executable, "-c", code], os.environ, 30.0)
    assert (done.returncode, done.stdout, done.stderr) == (5, "out\n", "err\n")
    with pytest.raises(subprocess.TimeoutExpired):
        run_supervised([sys.executable, "-c", SLEEP], os.environ, 0.5)


def test_trees_within_trees_keep_their_marks() -> None:
    assert marked(marked({"A": "b"}, "1"), "2") == {"A": "b", MARK: "1 2"}
