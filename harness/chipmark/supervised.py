"""A program and all that it starts, below a supervisor: the one way in which chipmark starts one.

`supervise.py` stands between, as a script of its own: it ends the tree when this process dies,
however it dies, and finds daemons too. Here is the parent's side of it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chipmark.processes import family_of, how_it_ended, signal_group, undisturbed

if TYPE_CHECKING:
    import psutil

MARK = "CHIPMARK_PROCESS"
"""Variable by which processes of one tree are known that have cut every tie, where there is no
supervisor to find them any more. Trees within trees: the marks stand one after another."""

ASK_S = 3.0
"""How long a program that was asked to end may take."""

_SUPERVISOR = Path(__file__).with_name("supervise.py")
_END_S = 5.0
_START_S = 60.0
_READ = 1 << 12


class Supervised:
    """A program with a session of its own. `end` ends it and everything that it started."""

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        cwd: Path | None = None,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.STDOUT,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start it with an empty stdin. Raises OSError where that cannot be done."""
        self.mark = new_mark()
        self._told: dict[str, Any] = {}
        self._text = b""
        self._results, writer = os.pipe()
        try:
            self.process = subprocess.Popen(
                [*supervised(writer), *argv],
                cwd=cwd,
                env=marked(env, self.mark),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                pass_fds=(writer, *pass_fds),
            )
            """The supervisor."""
        except BaseException:
            os.close(self._results)
            raise
        finally:
            os.close(writer)
        try:
            self._listen(_START_S, ("pid", "errno"))
        except BaseException:
            self._give_up()
            raise
        if "pid" not in self._told:
            self._give_up()
            number = self._told.get("errno", 0)
            raise OSError(number, os.strerror(number) if number else "the supervisor has ended")

    @property
    def pid(self) -> int:
        """Of the program, which leads a session and a group."""
        return int(self._told["pid"])

    @property
    def wall_s(self) -> float | None:
        """From the program's start to its end, without what supervises it; None before."""
        return self._told.get("wall_s")

    def code(self, timeout_s: float) -> int | None:
        """How the program ended, in the codes of `subprocess`; None where it runs on. The
        supervisor's own where that was killed, and the program with it."""
        self._listen(timeout_s, ("code",))
        if "code" in self._told:
            return int(self._told["code"])
        return self.process.poll()

    def how_it_ended(self, timeout_s: float) -> str:
        """In words, after "the program"; "" where it runs on."""
        code = self.code(timeout_s)
        return "" if code is None else how_it_ended(code)

    def signal(self, number: signal.Signals) -> bool:
        """To every process of the tree and not to the supervisor; False where it has ended."""
        import psutil

        if "code" in self._told or not signal_group(self.pid, number):
            return False
        for member in family_of(self.process.pid):
            try:
                if os.getpgid(member.pid) != self.pid:
                    member.send_signal(number)
            except (psutil.Error, ProcessLookupError):
                continue
        return True

    def end(self, ask_s: float = 0.0) -> None:
        """End the tree and wait until it is gone. ask_s: how long its group may take to end by
        itself after SIGTERM; 0 is not to ask."""
        with undisturbed():
            end_tree(self.process, self.mark, ask_s)
            if self._results >= 0:
                self._listen(0.0, ("code",))
                os.close(self._results)
                self._results = -1

    def _give_up(self) -> None:
        self.end()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def _listen(self, timeout_s: float, names: Sequence[str]) -> None:
        """Read what the supervisor tells until one of these is known, or it has ended."""
        until_s = time.monotonic() + timeout_s
        while self._results >= 0 and not any(name in self._told for name in names):
            left_s = max(0.0, until_s - time.monotonic())
            if not select.select([self._results], [], [], left_s)[0]:
                return
            chunk = os.read(self._results, _READ)
            *lines, self._text = (self._text + chunk).split(b"\n")
            for line in lines:
                self._told |= json.loads(line)
            if not chunk:
                self.process.wait(_END_S)
                return


def run_supervised(
    argv: Sequence[str], env: Mapping[str, str], limit_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and keep what it printed; nothing of it is left afterwards.

    Raises subprocess.TimeoutExpired after `limit_s`, OSError where it cannot be started.
    """
    program = Supervised(argv, env, stderr=subprocess.PIPE)
    with program.process:  # closes its pipes
        try:
            out, err = program.process.communicate(timeout=limit_s)
            code = program.code(0.0)
        finally:
            program.end()
    texts = (part.decode(errors="replace") for part in (out, err))
    return subprocess.CompletedProcess(list(argv), -1 if code is None else code, *texts)


def supervised(result: int | None = None) -> list[str]:
    """The words before a command that is to end with this process. result: the file descriptor
    to answer on, None for the exit code alone."""
    answer = "-" if result is None else str(result)
    return [sys.executable, "-I", "-S", str(_SUPERVISOR), answer, str(os.getpid())]


def new_mark() -> str:
    """A value of MARK that no other process tree has."""
    return f"{os.getpid()}-{time.monotonic_ns()}"


def marked(env: Mapping[str, str], mark: str) -> dict[str, str]:
    """The environment with this mark after those of the trees that it is a part of."""
    return {**env, MARK: " ".join([*env.get(MARK, "").split(), mark])}


def end_tree(process: subprocess.Popen[Any], mark: str, ask_s: float = ASK_S) -> None:
    """End a supervisor's tree, and what of it is left where the supervisor itself was killed.

    Its group is asked first (a chipmark or a pytest ends its own children and removes its half
    files), then killed.
    """
    import psutil  # not needed for the help of a command that starts programs

    family: set[psutil.Process] = set()
    if ask_s > 0 and process.poll() is None:
        process.terminate()
        _wait(process, ask_s)
    if process.poll() is None:
        family |= set(family_of(process.pid))
        process.send_signal(signal.SIGUSR1)
        _wait(process, _END_S)
    if process.poll() is None or process.returncode < 0 or sys.platform != "linux":
        process.kill()
        family |= _marked(mark)
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(list(family), timeout=ASK_S)
        process.wait()


def _wait(process: subprocess.Popen[Any], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return  # the next step is stronger


def _marked(mark: str) -> set[psutil.Process]:
    """Processes of this user whose environment bears the mark; others cannot be read."""
    import psutil

    found = set()
    for member in psutil.process_iter():
        try:
            if mark in member.environ().get(MARK, "").split() and member.pid != os.getpid():
                found.add(member)
        except (psutil.Error, OSError):
            continue
    return found
