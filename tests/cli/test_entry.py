"""Signals of the command line, from the first moment on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A chipmark whose imports take long: typer is the first thing that the command line imports.
SLOW = "import os, time\nopen(os.environ['TOLD'], 'w').close()\ntime.sleep(60)\n"
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def started(tmp_path: Path, *before: str) -> subprocess.Popen[str]:
    """The entry while it imports what it needs."""
    (tmp_path / "typer.py").write_text(SLOW)
    told = tmp_path / "told"
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [*before, sys.executable, "-c", "from chipmark.entry import entry; entry()", "--version"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TOLD": str(told)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 30
    while not told.exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("number", NUMBERS)
def test_while_commands_are_imported(tmp_path: Path, number: signal.Signals) -> None:
    process = started(tmp_path)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert err == f"interrupted by {number.name}; what was written whole stands\n"


@pytest.mark.parametrize("number", NUMBERS)
def test_one_that_is_ignored_from_the_start_stays_ignored(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = started(tmp_path, "sh", "-c", f'trap "" {number.name[3:]}; exec "$@"', "sh")
    process.send_signal(number)
    time.sleep(0.5)
    assert process.poll() is None
    process.kill()
    process.communicate(timeout=30)


CLEANS_UP = """
import sys, time
import chipmark.cli.main as main
from chipmark.entry import entry
def work(arguments, interrupted):
    try:
        print("working", flush=True)
        time.sleep(60)
    finally:
        print("cleaning up", flush=True)
        time.sleep(1.0)
        print("clean", flush=True)
main.run_to_the_end = work
entry()
"""


def interrupted(program: str, first: str, number: signal.Signals) -> tuple[int, str]:
    """Send the signal when the program has printed its first line; its exit code and stderr."""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == f"{first}\n"
        process.send_signal(number)
        return process.wait(30), process.stderr.read()


IN_EXEC = """
import sys, time
import chipmark.cli.main as main
from chipmark.entry import entry
def work(arguments, interrupted):
    exec("print('working', flush=True); time.sleep(60)")
main.run_to_the_end = work
entry()
"""


@pytest.mark.parametrize("number", NUMBERS)
def test_within_a_text_that_is_executed(number: signal.Signals) -> None:
    code, _ = interrupted(IN_EXEC, "working", number)
    assert code == 128 + number


AT_THE_END = """
import atexit, sys, time
import chipmark.cli.main as main
from chipmark.entry import entry
def end():
    print("ending", flush=True)
    time.sleep(1.0)
atexit.register(end)
main.run_to_the_end = lambda *given: 3
entry()
"""


@pytest.mark.parametrize("number", NUMBERS)
def test_the_code_of_work_that_is_done_is_kept(number: signal.Signals) -> None:
    code, _ = interrupted(AT_THE_END, "ending", number)
    assert code == 3


def test_a_second_signal_does_not_break_the_clean_up_off() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CLEANS_UP], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "cleaning up\n"
        for number in NUMBERS:
            process.send_signal(number)
        assert process.stdout.readline() == "clean\n"
        assert process.wait(30) == 143
        assert process.stderr.read() == ("interrupted by SIGTERM; what was written whole stands\n")


SWALLOWED = """
import sys, time
import chipmark.cli.main as main
from chipmark.entry import entry
class Kept:
    def __del__(self):
        print("working", flush=True)
        time.sleep(2)
def work(arguments, interrupted):
    kept = Kept()
    del kept
    time.sleep(60)
main.run_to_the_end = work
entry()
"""


@pytest.mark.parametrize("number", NUMBERS)
def test_an_interrupt_that_is_swallowed_is_raised_again(number: signal.Signals) -> None:
    code, said = interrupted(SWALLOWED, "working", number)
    assert code == 128 + number
    assert said.splitlines() == [f"interrupted by {number.name}; what was written whole stands"]


IN_AN_IMPORT = """
import sys, time
from pathlib import Path
import chipmark.cli.main as main
from chipmark.entry import entry
folder = Path(sys.argv[1])
(folder / "library.py").write_text('''
import time
try:
    print("working", flush=True)
    time.sleep(1.0)
except BaseException as error:
    raise ValueError("a library's own error") from error
''')
sys.path.insert(0, str(folder))
def work(arguments, interrupted):
    import library
    time.sleep(60)
main.run_to_the_end = work
entry()
"""


def test_an_interrupt_waits_for_the_end_of_an_import(tmp_path: Path) -> None:
    program = IN_AN_IMPORT.replace("sys.argv[1]", repr(str(tmp_path)))
    code, said = interrupted(program, "working", signal.SIGTERM)
    assert code == 143
    assert said.splitlines() == ["interrupted by SIGTERM; what was written whole stands"]


MADE_INTO_ANOTHER = """
import sys, time
import chipmark.cli.main as main
from chipmark.entry import entry
class Half:
    def __del__(self):
        raise AttributeError("never made whole")
def app(arguments, prog_name):
    half = Half()
    try:
        print("working", flush=True)
        time.sleep(60)
    except BaseException as error:
        raise ValueError("a library's own error") from error
main.app = app
entry()
"""


def test_an_error_that_a_library_makes_of_an_interrupt_is_the_interrupt() -> None:
    code, said = interrupted(MADE_INTO_ANOTHER, "working", signal.SIGTERM)
    assert code == 143
    assert said.splitlines() == ["interrupted by SIGTERM; what was written whole stands"]
