"""Starting, asking and ending a child; a crash, a hang or a flood costs its own cell only."""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from chipmark.cell.checked_json import FieldError, from_mapping, to_mapping
from chipmark.cell.environment import child_environment
from chipmark.cell.protocol import GO, Answer, Close, CloseAnswer, ErrorAnswer, Request
from chipmark.chips.device_users import WORKER
from chipmark.errors import CellFailedError, DoesNotFitError
from chipmark.processes import LogTail
from chipmark.supervised import Supervised
from chipmark_models.plain_text import one_line

_ANSWER_BYTES = 32 * 1024 * 1024
_READ = 1 << 16
READY = "ready"
MARKS = (READY, "started", "ended")
"""What a child marks of a run."""

_EXIT_S = 5.0
"""How long a child that has closed its pipe may take to end."""

Told = Callable[[Mapping[str, Any]], None]


class ChildProcess:
    """A child with a session and process group of its own, so that all of it can be ended.

    `spec` is written to `folder/spec.json` for `module`. `python` is the interpreter (a vendor's
    own, for its packages); the source roots of this installation are put on its PYTHONPATH.
    `backend` is what it computes with, "" where any plug-in of torch may be needed. Use as a
    context manager: leaving it ends the tree.
    """

    def __init__(
        self,
        spec: str,
        folder: Path,
        python: str = "",
        module: str = WORKER,
        backend: str = "",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "spec.json"
        path.write_text(spec, encoding="utf-8")
        python = python or sys.executable
        to_child, self._commands = os.pipe()
        self._answers, from_child = os.pipe()
        command = [python, "-m", module, str(path)]
        command += ["--fd-in", str(to_child), "--fd-out", str(from_child)]
        try:
            self._tree = Supervised(
                command, child_environment(os.environ, backend), pass_fds=(to_child, from_child)
            )
        except OSError as error:
            os.close(self._commands)
            os.close(self._answers)
            raise CellFailedError(f"{python} cannot be started: {error}") from error
        finally:
            os.close(to_child)
            os.close(from_child)
        assert self._tree.process.stdout is not None
        self.log = LogTail(self._tree.process.stdout)
        self._buffer = bytearray()
        self._searched = 0
        self._parked = False
        self._ended = False
        self._pending = ""
        self.sent_s = self.answered_s = self._came_s = float("nan")
        self.marks: dict[str, float] = {}
        """When the last command was sent, when its answer came, and when each mark of it did:
        seconds of this process's own `time.perf_counter`."""

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def request(
        self, request: Request[Answer], timeout_s: float, told: Told | None = None
    ) -> Answer:
        """The typed answer to a request; CellFailedError says what went wrong, and names the field
        of an answer that is not what the request is answered with."""
        self.send_request(request)
        return self.answer_to(request, timeout_s, told)

    def send_request(self, request: Request[Any]) -> None:
        """Send a request; `answer_to` fetches the result, so that children load side by side."""
        self.send(request.name, **to_mapping(request))

    def answer_to(
        self, request: Request[Answer], timeout_s: float, told: Told | None = None
    ) -> Answer:
        """The typed answer to the last request sent."""
        answer = self.answer(timeout_s, told)
        try:
            found: Answer = from_mapping(request.answer, answer)
        except FieldError as error:
            text = f"{request.name}: the child answers {error.field}: {error.problem}"
            raise self._failure(text) from error
        return found

    def ask(
        self, command: str, timeout_s: float, told: Told | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """Send a command and wait for its answer; CellFailedError says what went wrong."""
        self.send(command, **arguments)
        return self.answer(timeout_s, told)

    def send(self, command: str, **arguments: Any) -> None:
        """Send a command; `answer` fetches the result, so that two children can load at once."""
        self.wake()
        self._pending = command
        line = json.dumps({"command": command, **arguments}).encode() + b"\n"
        self.marks = {}
        self.answered_s = float("nan")
        self.sent_s = self._came_s = time.perf_counter()
        try:
            os.write(self._commands, line)
        except OSError as error:
            raise self._failure(f"{command}: the child is gone") from error

    def answer(self, timeout_s: float, told: Told | None = None) -> dict[str, Any]:
        """The answer of the last command sent; the child is ended at the limit."""
        message: Mapping[str, Any] = {"mark": ""}
        deadline = time.monotonic() + timeout_s
        while "mark" in message or "progress" in message:
            message = self._message(deadline, timeout_s)
            if "progress" in message and told is not None:
                told(message["progress"])
        self.answered_s = self._came_s
        return self._result(self._pending, message)

    def await_ready(self, timeout_s: float) -> None:
        """Return when the child that runs `together` with others has marked that it is ready.
        CellFailedError where it answers instead; the child is ended at the limit."""
        deadline = time.monotonic() + timeout_s
        while READY not in self.marks:
            message = self._message(deadline, timeout_s)
            if "mark" not in message and "progress" not in message:
                self._result(self._pending, message)
                raise self._failure(f"{self._pending}: answered before it was to start")

    def go(self) -> None:
        """Let a child that is ready run."""
        try:
            os.write(self._commands, GO.encode() + b"\n")
        except OSError as error:
            raise self._failure(f"{self._pending}: the child is gone") from error

    def stop(self) -> None:
        """Kill the child's processes, from any thread: who waits for its answer sees its end."""
        self._tree.signal(signal.SIGKILL)

    def _message(self, deadline: float, timeout_s: float) -> dict[str, Any]:
        """The child's next message, its marks stamped. A line that waits in the buffer has come
        with the last read."""
        command = self._pending
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            while True:
                if deadline < time.monotonic():
                    raise self._failure(f"{command}: no answer within {timeout_s:.0f} s")
                at = self._buffer.find(b"\n", self._searched)
                self._searched = len(self._buffer)
                if at >= 0:
                    line = bytes(self._buffer[:at])
                    del self._buffer[: at + 1]
                    self._searched = 0
                    message = self._parse(command, line)
                    # The first of a name counts: a child cannot move it later.
                    if message.get("mark") in MARKS:
                        self.marks.setdefault(message["mark"], self._came_s)
                    return message
                if self.log.flooded:
                    raise self._failure(
                        f"{command}: flooded its output with {self.log.total >> 20} MiB"
                    )
                left = deadline - time.monotonic()
                if selector.select(timeout=max(0.0, min(left, 0.2))):
                    chunk = os.read(self._answers, _READ)
                    self._came_s = time.perf_counter()
                    if not chunk:
                        raise self._failure(f"{command}: {self._how_it_ended()}")
                    self._buffer += chunk
                    if len(self._buffer) > _ANSWER_BYTES:
                        raise self._failure(f"{command}: the answer is over 32 MiB")

    @property
    def pid(self) -> int:
        """Of the measured process, which leads a session and a group; its supervisor is another."""
        return self._tree.pid

    def park(self) -> None:
        """Stop the child's processes, also those in groups of their own: they keep their memory
        and use no CPU until they are woken. What supervises them continues."""
        if not self._parked:
            self._parked = self._tree.signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let a parked child continue."""
        if self._parked:
            self._tree.signal(signal.SIGCONT)
            self._parked = False

    def close(self, timeout_s: float) -> CloseAnswer:
        """Ask the child to free its device and end; its process tree is gone afterwards."""
        try:
            return self.request(Close(), timeout_s)
        finally:
            self.kill()

    def kill(self) -> None:
        """End the child and everything it started, also what left its process group."""
        if self._ended:
            return
        self._ended = True
        self._tree.end()
        for descriptor in (self._commands, self._answers):
            os.close(descriptor)
        self.log.join()

    def _parse(self, command: str, line: bytes) -> dict[str, Any]:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self._failure(f"{command}: answered {line[:80]!r}, which is not JSON") from error
        if not isinstance(message, dict):
            raise self._failure(f"{command}: answered {line[:80]!r}, which is not an object")
        return message

    def _result(self, command: str, message: Mapping[str, Any]) -> dict[str, Any]:
        if "error" in message:
            told = message["error"]
            try:
                error = from_mapping(ErrorAnswer, told if isinstance(told, Mapping) else {})
            except FieldError as wrong:
                text = f"{command}: the child answers error.{wrong.field}: {wrong.problem}"
                raise self._failure(text) from wrong
            text = one_line(f"{command}: {error.type}: {error.message}")
            if error.sequences is not None:
                raise DoesNotFitError(text, error.hint, sequences=error.sequences)
            raise CellFailedError(text, error.hint)
        answer = message.get("ok")
        if not isinstance(answer, dict):
            raise self._failure(f"{command}: answered neither ok nor error")
        return answer

    def _failure(self, text: str) -> CellFailedError:
        self.kill()
        return CellFailedError(one_line(text), "the end of its output is in child.log")

    def _how_it_ended(self) -> str:
        how = self._tree.how_it_ended(_EXIT_S)
        return f"the child {how}" if how else "the child closed its pipe without an answer"
