"""Errors that a user can act on, each with the exit code that the command line returns for it.

ChipmarkError                      2
├── UsageError                     2   arguments or a file that do not fit together
├── UnknownNameError               2   a name that does not exist, with near ones
├── BadInputError                  2   a file with wrong content: path, line, field
│   └── BrokenRecordError          2   a stored record that is changed or not whole
├── CannotWriteError               2   a file or folder that cannot be written
├── ModelUnavailableError          2   weights that cannot be found or fetched
├── DoesNotFitError                2   more than the device's memory or the model's context
├── BrokenPluginError              2   a plug-in that lacks what its contract asks for
├── ContractError                  4   a plug-in or its caller breaks the contract
├── MissingBackendError            2   a package or device that is not installed
├── NothingToJudgeError            3   no record to show or to compare
├── CellsLeftError                 3   cells that the time of this run did not allow
└── CellFailedError                4   a cell without a valid measurement

All of them have `message`, `hint` and `exit_code`, and are names of `chipmark` itself.

Exit codes: 0 done; 1 a check found what it looks for; 2 wrong usage, bad input or a broken
record; 3 inconclusive, machine unfit or nothing to judge; 4 a cell failed, or chipmark itself did
(an error other than a ChipmarkError); 130, 143 or 129 interrupted.
"""

from __future__ import annotations

from chipmark_models.errors import (
    BadInputError,
    CannotWriteError,
    ChipmarkError,
    DoesNotFitError,
    ModelUnavailableError,
    UnknownNameError,
    nearest_names,
)

__all__ = [
    "BadInputError",
    "BrokenPluginError",
    "BrokenRecordError",
    "CannotWriteError",
    "CellFailedError",
    "CellsLeftError",
    "ChipmarkError",
    "ContractError",
    "DoesNotFitError",
    "MissingBackendError",
    "ModelUnavailableError",
    "NothingToJudgeError",
    "UnknownNameError",
    "UsageError",
    "nearest_names",
]


class UsageError(ChipmarkError):
    """The command or a file asks for something that does not make sense."""


class ContractError(ChipmarkError):
    """A caller did what a contract forbids: a step before `load`, one more than fit in flight, a
    page that was never written. A fault of the code that calls, never of the user."""

    exit_code = 4


class BrokenRecordError(BadInputError):
    """A record that is not whole, was changed, or has a schema that cannot be read."""


class BrokenPluginError(ChipmarkError):
    """A plug-in that lacks a member which its contract asks for; the message names it."""


class MissingBackendError(ChipmarkError):
    """A backend or provider whose package or device is not here; `hint` says what to install."""


class NothingToJudgeError(ChipmarkError):
    """There is no record to show or compare yet."""

    exit_code = 3


class CellsLeftError(ChipmarkError):
    """Cells were not begun, as they would not have ended in the time that was left."""

    exit_code = 3


class CellFailedError(ChipmarkError):
    """A cell ended without a valid measurement; other cells stand."""

    exit_code = 4
