"""chipmark's loggers: silent in a library, on stderr where the command line asks for them.

Modules take theirs from `logger_of`, so that none writes before somebody has chosen a level.
"""

from __future__ import annotations

import logging
import os
import sys

from chipmark.errors import UnknownNameError
from chipmark_models.plain_text import plain_lines

LEVELS = ("debug", "info", "warning", "error")

VARIABLE = "CHIPMARK_LOG"
"""The environment's level; the processes that a run starts inherit it."""

_ROOT = logging.getLogger("chipmark")
_ROOT.addHandler(logging.NullHandler())


def logger_of(module: str) -> logging.Logger:
    """The logger of a module of chipmark, by its `__name__`."""
    return logging.getLogger(module)


def configured() -> None:
    """`configure` by the environment's level, "warning" where it names none: for a process that a
    run starts. A level that does not exist is taken as "warning"; the command has refused it."""
    level = os.environ.get(VARIABLE, "warning")
    configure(level if level in LEVELS else "warning")


class _CurrentStderr(logging.Handler):
    """Writes to what `sys.stderr` is at the time, which a caller may have replaced or closed."""

    def emit(self, record: logging.LogRecord) -> None:
        """A line; nothing where standard error is closed."""
        if sys.stderr is not None and not sys.stderr.closed:
            sys.stderr.write(plain_lines(self.format(record)) + "\n")


def configure(level: str) -> None:
    """Write lines of this level and above to stderr, here and in processes started from here.

    Raises UnknownNameError for a level that is not in LEVELS.
    """
    if level not in LEVELS:
        raise UnknownNameError("log level", level, LEVELS)
    for handler in list(_ROOT.handlers):
        if handler.get_name() == VARIABLE:
            _ROOT.removeHandler(handler)
    handler = _CurrentStderr()
    handler.set_name(VARIABLE)
    handler.setLevel(level.upper())
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    _ROOT.addHandler(handler)
    _ROOT.setLevel(level.upper())
    os.environ[VARIABLE] = level
