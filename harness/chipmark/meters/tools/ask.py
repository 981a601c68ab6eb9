"""Run a tool for one answer, within a time limit and a size."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chipmark.processes import signal_group
from chipmark_models.plain_text import one_line

MOST_BYTES = 4 << 20
"""Of an answer; what is longer is not read."""

LIMIT_S = 10.0
"""Of one call; a driver under load answers in seconds."""

_WORDS = 200
_CHUNK = 1 << 16
_LOOK_S = 0.05  # how often an end is looked for where the kernel does not announce it
_REAP_S = 2.0  # a killed process that a driver holds in the kernel is left to it
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[@-Z\\-_])")
"""Colours and cursor movements of a terminal."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tool printed, or why there is nothing."""

    text: str
    problem: str = ""
    """A sentence; "" where the tool answered."""
    seconds: float = 0.0
    """How long the call took."""


def find_programs(names: Sequence[str]) -> tuple[str, ...]:
    """Paths of every program of these names on the PATH: by name, then by the PATH's order.

    Not the first alone: another vendor's tool of the same name may be installed in front of it.
    """
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found = [shutil.which(name, path=folder) for name in names for folder in folders if folder]
    return tuple(dict.fromkeys(path for path in found if path is not None))


def ask(program: str, arguments: Sequence[str], limit_s: float = LIMIT_S) -> Answer:
    """Run `program` in the C locale and give what it prints, on stdout or stderr.

    It is given a session of its own and is killed, with what it started, where it takes over
    `limit_s` or prints over MOST_BYTES; no more than that is kept in memory. Bytes that are not
    UTF-8 are replaced, escape sequences of a terminal are taken out. Never raises for what a
    program does.
    """
    began = time.perf_counter()
    environment = {**os.environ, "LC_ALL": "C", "LANG": "C", "LANGUAGE": "C", "TERM": "dumb"}
    # By the file's own name: what the user sees is the program that was asked.
    name = Path(program).name
    try:
        process = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return Answer("", f"{name} cannot be started: {one_line(str(error), _WORDS)}")
    data, problem = b"", "was interrupted"
    try:
        data, problem = _output(process, began + limit_s)
    finally:
        _end(process, whole=bool(problem))
    text = _ESCAPES.sub("", data.decode("utf-8", errors="replace"))
    if not problem and process.returncode:
        words = [line for line in text.splitlines() if line.strip()]
        said = f": {one_line(words[-1], _WORDS)}" if words else ""
        problem = f"ended with exit code {process.returncode}{said}"
    if problem == _LATE:
        problem = f"took over {limit_s:g} s"
    seconds = time.perf_counter() - began
    return Answer("", f"{name} {problem}", seconds) if problem else Answer(text, "", seconds)


_LATE = "late"


def _output(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, str]:
    """(what it printed until it ended, what is wrong): not until the pipe is closed, which
    something that it left running may hold open."""
    assert process.stdout is not None
    data = bytearray()
    out = process.stdout.fileno()
    os.set_blocking(out, False)
    end = _announced_end(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            if end is not None:
                selector.register(end, selectors.EVENT_READ)
            while True:
                left = deadline - time.perf_counter()
                if left <= 0:
                    return bytes(data), _LATE
                events = selector.select(left if end is not None else min(left, _LOOK_S))
                ready = {key.fd for key, _ in events}
                # Looked at first: what was printed before the end is in the pipe by then.
                ended = end in ready if end is not None else process.poll() is not None
                if (out in ready or ended) and not _drain(out, data, until_empty=ended):
                    selector.unregister(out)
                    out = -1
                if len(data) > MOST_BYTES:
                    return bytes(data), f"printed over {MOST_BYTES} bytes"
                if ended:
                    return bytes(data), ""
    finally:
        if end is not None:
            os.close(end)


def _announced_end(pid: int) -> int | None:
    """A descriptor that is readable once the process has ended; None where the kernel, or the
    container's filter of system calls, does not give one."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _drain(pipe: int, data: bytearray, *, until_empty: bool) -> bool:
    """Add what is in the pipe, up to MOST_BYTES and a little; False where it was closed."""
    while pipe >= 0 and len(data) <= MOST_BYTES:
        try:
            chunk = os.read(pipe, _CHUNK)
        except BlockingIOError:
            return True
        if not chunk:
            return False
        data += chunk
        if not until_empty:
            return True
    return True


def _end(process: subprocess.Popen[bytes], *, whole: bool) -> None:
    """Kill what is left of the program's group, and of its `whole` session where it did not end
    by itself, before it is reaped: until then no other process can have its number."""
    if whole:
        for member in _session(process.pid):
            _kill(member)
    if process.returncode is None:
        signal_group(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_REAP_S)
    if process.stdout is not None:
        process.stdout.close()


def _session(leader: int) -> list[int]:
    """Processes of the leader's session, in groups of their own too; [] where /proc is not here."""
    if sys.platform != "linux":
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if os.getsid(int(entry.name)) == leader:
                found.append(int(entry.name))
        except OSError:
            continue  # it has just ended
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        return  # it has just ended
