"""The `chipmark` script: its signals, from the first moment on.

SIGINT, SIGTERM and SIGHUP end a run with exit code 130, 143 or 129 and a line on stderr. While
commands are imported there is nothing to clean up, and the process ends at once. Afterwards the
first one raises KeyboardInterrupt, so that children end and scratch goes; what follows it within
CLEAN_UP_S is ignored, as a runner that is cancelled gets two or three. One that is ignored from the
start (`nohup`, a job in the background of a script) stays so. Little is imported here, as all this
must stand before typer is.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType

CLEAN_UP_S = 20.0
"""How long after a signal the next one is ignored."""

AGAIN_S = 0.01
"""How long after it was swallowed or put off an interrupt is raised again."""

LONGEST_IMPORT_S = 5.0
"""How long an import may put an interrupt off."""

_IMPORT = "<frozen importlib._bootstrap>"
"""The file of the frames of an import that is under way."""

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptedRun(KeyboardInterrupt):
    """What a signal raises. A class of its own: Python ends by SIGINT, whatever exit code it is
    given, once the very class KeyboardInterrupt has passed through `exec` of a text, as the
    standard library does it to make classes."""


class Interrupts:
    """The signals that end this process, and which of them has come."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._at_s = 0.0
        self._nothing_to_end = True

    def install(self) -> None:
        """Handle those that are not ignored."""
        for number in _NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        sys.unraisablehook = self._unraisable

    def clean_up_from_now_on(self, wanted: bool) -> None:
        """Whether a signal is raised as KeyboardInterrupt; else the process ends by it at once."""
        self._nothing_to_end = not wanted

    def ignore(self) -> None:
        """Ignore them from now on: the work is done, and Python's own end, which would give them
        back to the system, must not take its exit code away."""
        for number in _NUMBERS:
            signal.signal(number, signal.SIG_IGN)

    @property
    def code(self) -> int | None:
        """The exit code of an interrupted process, None where no signal has come."""
        return None if self.received is None else 128 + self.received

    def line(self) -> str:
        """The sentence on stderr."""
        name = signal.Signals(self.received or signal.SIGINT).name
        return f"interrupted by {name}; what was written whole stands\n"

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and time.monotonic() - self._at_s < CLEAN_UP_S:
            return
        self.received, self._at_s = number, time.monotonic()
        if self._nothing_to_end:
            try:
                os.write(2, self.line().encode())
            finally:
                os._exit(128 + number)
        self._raise(frame)

    def _raise(self, frame: FrameType | None) -> None:
        """Raise, but not into an import: libraries make errors of their own of what is raised while
        they are imported, or continue without a part of themselves."""
        if _importing(frame) and time.monotonic() - self._at_s < LONGEST_IMPORT_S:
            self._later()
            return
        raise InterruptedRun

    def _later(self) -> None:
        signal.signal(signal.SIGALRM, self._again)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)

    def _again(self, number: int, frame: FrameType | None) -> None:
        if not self._nothing_to_end:
            self._raise(frame)

    def _unraisable(self, lost: sys.UnraisableHookArgs) -> None:
        """What Python or an extension module swallows. An interrupt among it is raised again, a
        moment later: raised in here it would be swallowed as well. Other errors that come after
        an interrupt are its doing, as that of an object that was never made whole."""
        if issubclass(lost.exc_type, InterruptedRun):
            self._later()
        elif self.received is None:
            sys.__unraisablehook__(lost)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT:
            return True
        frame = frame.f_back
    return False


def entry() -> None:
    """Run the command line of this process and exit with its code."""
    interrupts = Interrupts()
    interrupts.install()
    from chipmark.cli.main import run_to_the_end

    code = 0
    try:
        interrupts.clean_up_from_now_on(True)
        code = run_to_the_end(sys.argv[1:], lambda: interrupts.received is not None)
    except BaseException:
        if interrupts.received is None:
            raise
    finally:
        interrupts.clean_up_from_now_on(False)
    if interrupts.code is not None:
        sys.stderr.write(interrupts.line())
        code = interrupts.code
    interrupts.ignore()
    sys.exit(code)


if __name__ == "__main__":
    entry()
