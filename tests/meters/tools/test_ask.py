from __future__ import annotations

import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chipmark.meters.tools import ask as asking
from chipmark.meters.tools.ask import MOST_BYTES, ask, find_programs

Make = Callable[[str], Any]


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(condition: Callable[[], bool]) -> bool:
    """Whether it becomes true within some seconds."""
    for _ in range(500):
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_a_tool_answers_in_the_c_locale(program: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    monkeypatch.setenv("LANGUAGE", "zh")
    tool = program("mytool")
    tool.does('echo "$LC_ALL $LANG $LANGUAGE $TERM"; echo noise >&2; echo "$2"')
    answer = ask(str(tool.path), ["info", "-t x; echo hacked"])
    assert answer.text.splitlines() == ["C C C dumb", "noise", "-t x; echo hacked"]
    assert answer.problem == ""


def test_any_bytes_are_decoded_and_colours_taken_out(program: Make) -> None:
    tool = program("mytool")
    tool.does(r"printf '\033[1;32m43 W\033[0m \377\376\000 \302\260C\n'")
    answer = ask(str(tool.path), [])
    assert answer.text == "43 W ��\x00 °C\n"


def test_an_exit_code_is_a_problem_with_the_tools_last_words(program: Make) -> None:
    tool = program("mytool")
    tool.does("echo 91.3 W; echo 'must be root' >&2; exit 13")
    answer = ask(str(tool.path), [])
    assert answer.text == ""
    assert answer.problem == "mytool ended with exit code 13: must be root"


def test_a_missing_program_is_a_problem(tmp_path: Path) -> None:
    answer = ask(str(tmp_path / "nothing"), [])
    assert answer.problem.startswith("nothing cannot be started")


def test_a_hung_tool_is_ended_with_its_whole_session(program: Make, tmp_path: Path) -> None:
    # One child in the tool's group, one in a group of its own.
    pids = tmp_path / "pids"
    apart = "import os, time; os.setpgid(0, 0); print(os.getpid(), flush=True); time.sleep(600)"
    tool = program("mytool")
    tool.does(
        f"sleep 600 & echo $! >> {pids}\n{sys.executable} -c '{apart}' >> {pids} &\n"
        f"echo $$ >> {pids}; wait"
    )
    answer = ask(str(tool.path), [], limit_s=1.0)
    assert answer.problem == "mytool took over 1 s"
    assert answer.text == ""
    started = [int(word) for word in pids.read_text().split()]
    assert len(started) == 3
    assert wait_for(lambda: not any(map(alive, started)))


def test_a_flood_is_ended_and_never_held_in_memory(program: Make) -> None:
    tool = program("mytool")
    tool.does("exec yes 'NPU Real-time Power(W) : 91.3'")
    tracemalloc.start()
    try:
        answer = ask(str(tool.path), [])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.problem == f"mytool printed over {MOST_BYTES} bytes"
    assert most < 5 * MOST_BYTES


def test_an_end_counts_though_something_holds_the_pipe(program: Make, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    tool = program("mytool")
    tool.does(f"setsid sleep 600 & echo $! > {pid}; echo 91.3 W")
    try:
        answer = ask(str(tool.path), [], limit_s=30.0)
        assert (answer.text, answer.problem) == ("91.3 W\n", "")
    finally:
        os.kill(int(pid.read_text()), 9)


def test_a_pipe_that_is_closed_early_does_not_end_the_call(program: Make, tmp_path: Path) -> None:
    done = tmp_path / "done"
    tool = program("mytool")
    tool.does(f"echo 5 W; exec >&- 2>&-; sleep 0.2; touch {done}")
    answer = ask(str(tool.path), [])
    assert answer.text == "5 W\n"
    assert done.exists()


@pytest.mark.parametrize("bytes_", [1, 1 << 16, 1 << 20])
def test_all_that_was_printed_arrives(program: Make, bytes_: int) -> None:
    tool = program("mytool")
    tool.does(f"head -c {bytes_} /dev/zero | tr '\\0' x")
    assert ask(str(tool.path), []).text == "x" * bytes_


def test_without_the_kernels_word_an_end_is_looked_for(
    program: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(pid: int) -> int:
        raise PermissionError("no such call in this container")

    monkeypatch.setattr(asking.os, "pidfd_open", refused, raising=False)
    tool = program("mytool")
    tool.does("echo 5 W")
    assert ask(str(tool.path), []).text == "5 W\n"
    tool.does("sleep 600")
    assert ask(str(tool.path), [], limit_s=0.3).problem == "mytool took over 0.3 s"


def test_every_program_of_the_names_is_found_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = []
    for folder, name in (("a", "two"), ("b", "one"), ("b", "two")):
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        wanted.append(str(path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'a'}{os.pathsep}{tmp_path / 'b'}")
    assert find_programs(("one", "two")) == (wanted[1], wanted[0], wanted[2])
