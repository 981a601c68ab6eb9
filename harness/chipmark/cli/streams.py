"""Stdout and stderr of the command line, whose reader may have gone (`chipmark gate .. | head`).

Exit code 1 means that a gate is red, so a reader that has read enough must never make one. Left
alone, Python, click and rich each turn the broken pipe into an exit code of their own.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

from chipmark.errors import UsageError


class _Sink(io.FileIO):
    """A file descriptor that takes everything: once nobody reads it, it leads to /dev/null."""

    def write(self, data: object) -> int | None:  # type: ignore[override]
        """As `FileIO`. Raises UsageError, once, where the file behind it cannot be written."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError:
            self._lead_nowhere()
        except BlockingIOError:
            raise
        except OSError as error:
            self._lead_nowhere()
            raise UsageError(f"the output cannot be written ({error.strerror})") from error
        return memoryview(data).nbytes  # type: ignore[arg-type]

    def _lead_nowhere(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, self.fileno())
        finally:
            os.close(nowhere)


def outlive_readers() -> None:
    """Replace `sys.stdout` and `sys.stderr` by streams that a reader may leave at any time.

    A stream that was closed before the start (`>&-`) leads to /dev/null.
    """
    sys.stdout = _stream(sys.stdout, 1, line_buffering=sys.stdout is not None and _tty(sys.stdout))
    sys.stderr = _stream(sys.stderr, 2, line_buffering=True)


def _tty(stream: TextIO) -> bool:
    return stream.isatty()


def _stream(before: TextIO | None, number: int, *, line_buffering: bool) -> TextIO:
    if before is None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        if nowhere != number:
            os.dup2(nowhere, number)
            os.close(nowhere)
        encoding, errors = "utf-8", "replace"
    else:
        before.flush()
        encoding, errors = before.encoding, before.errors or "strict"
    raw = _Sink(number, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=line_buffering)
