"""Stdout and stderr of the command line, whose reader may have gone (`chipmark gate .. | head`).

Exit code 1 means that a gate is red, so a reader that has read enough must never make one. Left
alone, Python, click and rich each turn the broken pipe into an exit code of their own. Nor may a
terminal that is not UTF-8 make one: signs that it cannot show are spelled.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TextIO

from chipmark.errors import UsageError

SPELLED = {
    "─": "-", "━": "-", "│": "|", "┃": "|", "╭": "+", "╮": "+", "╰": "+", "╯": "+",
    "≥": ">=", "≤": "<=", "±": "+-", "µ": "u", "→": "->", "…": "..",
}  # fmt: skip
"""Signs of chipmark's own output in ASCII."""

_STDERR = 2

ERRORS = "chipmark.spelled"
"""The name of `spelled` among Python's handlers of encoding errors."""


def spelled(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler: signs in ASCII, any other character by its number (`\\u4e2d`)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    ascii_only = "".join(
        SPELLED.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text
    )
    return ascii_only, error.end


codecs.register_error(ERRORS, spelled)


class _Sink(io.FileIO):
    """A file descriptor that takes everything: once its reader is gone, it leads to /dev/null."""

    def write(self, data: object) -> int | None:  # type: ignore[override]
        """As `FileIO`. Raises UsageError, once, where the file behind stdout cannot be written."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError:
            self._lead_nowhere()
        except BlockingIOError:
            raise
        except OSError as error:
            self._lead_nowhere()
            if self.fileno() != _STDERR:  # of progress and messages nothing is lost that counts
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
        encoding = "utf-8"
    else:
        before.flush()
        encoding = before.encoding
    raw = _Sink(number, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, ERRORS, line_buffering=line_buffering)
