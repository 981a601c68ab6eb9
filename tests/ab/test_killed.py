"""However `chipmark ab` ends, no process of it runs on; asked to end, it leaves no folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from chipmark.ab.process import run_process
from chipmark.errors import UsageError
from chipmark.supervised import supervised

pytestmark = pytest.mark.long

ENTRY = [sys.executable, "-c", "from chipmark.cli.main import entry; entry()"]

# A child in the group, one with a session of its own, a daemon that nobody is the parent of and
# whose variables are empty, and the process itself, which is deaf to everything but SIGKILL.
TREE = """
import os, signal, subprocess, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
sleep = [sys.executable, "-S", "-c", "import time; time.sleep(120)"]
pids = [os.getpid(), subprocess.Popen(sleep).pid]
pids.append(subprocess.Popen(sleep, start_new_session=True, env={}).pid)
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(writer, str(os.getpid()).encode())
        os.execve(sys.executable, sleep, {})
    os._exit(0)
pids.append(int(os.read(reader, 20)))
with open(sys.argv[1] + ".tmp", "w") as file:
    file.write(" ".join(map(str, pids)))
os.rename(sys.argv[1] + ".tmp", sys.argv[1])
time.sleep(120)
"""


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def running(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found


def git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@y", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A checkout of two commits whose benchmark is TREE, and a folder for temporary files."""
    folder = tmp_path / "project"
    folder.mkdir()
    (tmp_path / "scratch").mkdir()
    git(folder, "init", "-q")
    (folder / "tree.py").write_text(TREE)
    for text in ("one", "two"):
        (folder / "lib.py").write_text(text)
        git(folder, "add", ".")
        git(folder, "commit", "-qm", text)
    yield folder
    if (tmp_path / "pids").exists():
        for pid in running([int(p) for p in (tmp_path / "pids").read_text().split()]):
            os.kill(pid, signal.SIGKILL)


def start(project: Path, *words: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*ENTRY, "ab", *words],
        cwd=project,
        env={**os.environ, "TMPDIR": str(project.parent / "scratch"), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def started(project: Path) -> tuple[subprocess.Popen[bytes], list[int]]:
    """An `ab` of two commits whose first arm is under way, and every process below it."""
    told = project.parent / "pids"
    command = ["--base", "HEAD~1", "--head", "HEAD", "--", sys.executable, "tree.py", str(told)]
    run = start(project, *command)
    wait_for(lambda: told.exists() or run.poll() is not None, "the arm never started")
    assert run.poll() is None, run.stderr.read().decode() if run.stderr else ""
    arm = [int(p) for p in told.read_text().split()]
    below = [child.pid for child in psutil.Process(run.pid).children(recursive=True)]
    assert set(arm) <= set(below)
    assert len(running(arm)) == 4
    return run, sorted({*arm, *below})


def test_a_killed_run_takes_every_process_along(project):
    run, pids = started(project)
    run.kill()
    run.communicate(timeout=30)
    wait_for(lambda: not running(pids), f"still running: {running(pids)}", 20)


def test_a_supervisor_that_is_killed_takes_the_arm_along(project):
    run, pids = started(project)
    (supervisor,) = psutil.Process(run.pid).children()
    supervisor.kill()
    _, err = run.communicate(timeout=60)
    assert run.returncode == 2
    assert b"arm A, warm-up" in err
    assert b"signal 9" in err
    wait_for(lambda: not running(pids[:1]), "the arm runs on", 20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_leaves_no_process_no_worktree_and_no_folder(project, number):
    run, pids = started(project)
    assert git(project, "worktree", "list").count("\n") == 3
    run.send_signal(number)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert b"Traceback" not in err
    assert running(pids) == []
    assert git(project, "worktree", "list").count("\n") == 1
    assert list((project.parent / "scratch").iterdir()) == []


def test_more_signals_do_not_break_the_clean_up_off(project):
    run, pids = started(project)
    # As a CI server cancels a job: the arm is deaf, so the second comes while it is waited for.
    run.send_signal(signal.SIGINT)
    for _ in range(8):
        time.sleep(0.4)
        if run.poll() is None:
            run.send_signal(signal.SIGTERM)
    run.communicate(timeout=60)
    assert run.returncode == 130
    assert running(pids) == []
    assert git(project, "worktree", "list").count("\n") == 1
    assert list((project.parent / "scratch").iterdir()) == []


# A git that stops while it makes a worktree, after it has made half of it.
SLOW_GIT = """#!/bin/sh
case "$*" in
*"worktree add"*)
  real="$REAL_GIT"
  mkdir -p "$TMPDIR/half"
  echo $$ > "$TOLD.tmp"; mv "$TOLD.tmp" "$TOLD"
  "$real" "$@"
  sleep 120 ;;
*) exec "$REAL_GIT" "$@" ;;
esac
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_git_does_not_outlive_the_run(project, number):
    programs = project.parent / "bin"
    programs.mkdir()
    (programs / "git").write_text(SLOW_GIT)
    (programs / "git").chmod(0o755)
    told = project.parent / "git-pid"
    real = subprocess.run(
        ["sh", "-c", "command -v git"], capture_output=True, text=True, check=True
    ).stdout.strip()
    run = start(
        project, "--base", "HEAD~1", "--head", "HEAD", "--", sys.executable, "-c", "1",
        PATH=f"{programs}{os.pathsep}{os.environ['PATH']}", REAL_GIT=real, TOLD=str(told),
    )  # fmt: skip
    wait_for(told.exists, "git was never asked for a worktree")
    wait_for(lambda: git(project, "worktree", "list").count("\n") == 2, "no worktree was made")
    pids = [child.pid for child in psutil.Process(run.pid).children(recursive=True)]
    assert int(told.read_text()) in pids
    run.send_signal(number)
    run.communicate(timeout=60)
    wait_for(lambda: not running(pids), f"still running: {running(pids)}", 20)
    if number == signal.SIGTERM:
        assert run.returncode == 128 + number
        assert git(project, "worktree", "list").count("\n") == 1
        assert not list((project.parent / "scratch").glob("chipmark-ab-*"))


def test_a_locked_half_worktree_is_removed_too(project, tmp_path):
    from chipmark.ab.worktrees import worktrees

    folder = tmp_path / "tree"
    with worktrees(project, [(git(project, "rev-parse", "HEAD").strip(), folder)]):
        git(project, "worktree", "lock", str(folder))
        (folder / ".git").unlink()
    assert not folder.exists()
    assert git(project, "worktree", "list").count("\n") == 1
    assert not list((project / ".git" / "worktrees").glob("*"))


def test_the_program_sees_what_it_was_given(tmp_path):
    code = "import json, os, signal, sys; print(json.dumps([dict(os.environ), sys.argv[1:], "
    code += "int(signal.getsignal(signal.SIGTERM)), os.listdir('/proc/self/fd')]))"
    environment = {"A": "1", "B": "x=y", "LC_ALL": "C"}
    argv = [sys.executable, "-S", "-c", code, "a b", ""]
    done = run_process(argv, tmp_path, environment, 30, "x")
    found, words, sigterm, files = json.loads(done.log)
    found.pop("CHIPMARK_PROCESS")
    assert found == environment
    assert words == ["a b", ""]
    assert sigterm == signal.SIG_DFL
    assert len(files) == 4  # stdin, stdout, stderr, and the folder that is listed


def test_no_variable_is_added_in_a_plain_locale(tmp_path):
    (program,) = [p for p in (Path("/usr/bin/env"), Path("/bin/env")) if p.exists()][:1]
    done = run_process([str(program)], tmp_path, {"A": "1"}, 30, "x")
    names = sorted(line.partition("=")[0] for line in done.log.splitlines())
    assert names == ["A", "CHIPMARK_PROCESS"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", -9)],
)
def test_how_it_ended(tmp_path, code, expected):
    done = run_process([sys.executable, "-S", "-c", code], tmp_path, os.environ, 30, "x")
    assert done.code == expected
    alone = subprocess.run(
        [*supervised(), sys.executable, "-S", "-c", code], cwd=tmp_path, check=False
    )
    assert alone.returncode == (expected if expected > 0 else 128 - expected)


def test_a_file_that_is_no_program(tmp_path):
    program = tmp_path / "program"
    program.write_text("x")
    with pytest.raises(UsageError, match="cannot be started: Permission denied"):
        run_process([str(program)], tmp_path, os.environ, 5, "arm A")
