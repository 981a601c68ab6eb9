"""chipmark's loggers: silent in a library, on stderr where the command line asks for them.

Modules take theirs from `logger_of`, so that none writes before somebody has chosen a level.
"""

from __future__ import annotations

import logging
import os
import sys

from chipmark.errors import UnknownNameError

LEVELS = ("debug", "info", "warning", "error")

VARIABLE = "CHIPMARK_LOG"
"""The environment's level; the processes that a run starts inherit it."""

_ROOT = logging.getLogger("chipmark")
_ROOT.addHandler(logging.NullHandler())


def logger_of(module: str) -> logging.Logger:
    """The logger of a module of chipmark, by its `__name__`."""
    return logging.getLogger(module)


def configure(level: str) -> None:
    """Write lines of this level and above to stderr, here and in processes started from here.

    Raises UnknownNameError for a level that is not in LEVELS.
    """
    if level not in LEVELS:
        raise UnknownNameError("log level", level, LEVELS)
    for handler in list(_ROOT.handlers):
        if handler.get_name() == VARIABLE:
            _ROOT.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.set_name(VARIABLE)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    _ROOT.addHandler(handler)
    _ROOT.setLevel(level.upper())
    os.environ[VARIABLE] = level
