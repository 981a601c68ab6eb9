"""Run a tool for one answer, within a time limit and a size."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chipmark_models.plain_text import one_line

MOST_BYTES = 4 << 20
"""Of an answer; what is longer is no answer."""

LIMIT_S = 10.0
"""Of one call; a driver under load answers in seconds."""

_WORDS = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tool printed, or why it is no answer."""

    text: str
    problem: str = ""
    """A sentence; "" where the tool answered."""
    seconds: float = 0.0
    """How long the call took."""


def find_program(names: Sequence[str]) -> str | None:
    """The path of the first of these programs that is here."""
    return next((found for name in names if (found := shutil.which(name))), None)


def ask(program: str, arguments: Sequence[str], limit_s: float = LIMIT_S) -> Answer:
    """Run `program` in the C locale and give what it prints on stdout.

    It is given a session of its own and is killed, with what it started, where it takes over
    `limit_s` or prints over MOST_BYTES. Never raises for what a program does.
    """
    began = time.perf_counter()
    environment = {**os.environ, "LC_ALL": "C", "LANG": "C", "LANGUAGE": "C"}
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
    except OSError as error:
        return Answer("", f"{name} cannot be started: {error.strerror}")
    data, problem = b"", ""
    try:
        data, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        problem = f"{name} took over {limit_s:g} s"
    finally:
        _end(process)
    seconds = time.perf_counter() - began
    if not problem and len(data) > MOST_BYTES:
        problem = f"{name} printed {len(data)} bytes"
    text = data.decode("utf-8", errors="replace")
    if not problem and process.returncode:
        words = [line for line in text.splitlines() if line.strip()]
        said = f": {one_line(words[-1], _WORDS)}" if words else ""
        problem = f"{name} ended with exit code {process.returncode}{said}"
    return Answer("" if problem else text, problem, seconds)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the program's session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # all of it had ended
    finally:
        process.wait()
