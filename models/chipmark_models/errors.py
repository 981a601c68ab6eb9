"""Errors of the model layer that a user can act on; each has the exit code of the command line.

They live in the lower layer so that `chipmark_models` imports nothing of `chipmark`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from chipmark_models.plain_text import one_line


class ChipmarkError(Exception):
    """Base of every error that is shown without a traceback; `hint` says what to do."""

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def sentences(self) -> str:
        """Message and hint on one line, for where it is one remark among others."""
        return f"{self.message}. {self.hint}".strip()

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UnknownNameError(ChipmarkError):
    """A name that does not exist, with the nearest valid names."""

    def __init__(self, kind: str, name: str, valid: Iterable[str], hint: str = "") -> None:
        names = sorted(valid)
        near = nearest_names(name, names)
        listed = f"did you mean {' or '.join(near)}?" if near else f"valid: {', '.join(names)}"
        super().__init__(f"unknown {kind} {one_line(repr(name), 200)}; {listed}", hint)
        self.kind, self.name, self.valid, self.near = kind, name, names, near


class BadInputError(ChipmarkError):
    """A file whose content is wrong: `PATH:LINE: field 'NAME': problem`, as far as known.

    The message is one line of at most 500 characters without control characters, whatever the
    file says; `path`, `field` and `problem` are as they were given. `problem` is a noun phrase:
    "invalid JSON: ...", "no such file", "0 is not a count".
    """

    def __init__(
        self,
        path: object,
        problem: str,
        *,
        line: int | None = None,
        field: str = "",
        hint: str = "",
    ) -> None:
        where = f"{path}" + (f":{line}" if line is not None else "")
        at = f"field {field!r}: " if field else ""
        super().__init__(one_line(f"{where}: {at}{problem}"), hint)
        self.path, self.line, self.field, self.problem = str(path), line, field, problem


class CannotWriteError(ChipmarkError):
    """A file or folder that cannot be written: a disk that is full, read-only or gone."""

    def __init__(self, path: object, why: OSError, hint: str = "") -> None:
        reason = why.strerror or str(why)
        other = f": {why.filename}" if why.filename and str(path) not in str(why.filename) else ""
        super().__init__(one_line(f"{path} cannot be written: {reason}{other}"), hint)
        self.path = str(path)


class ModelUnavailableError(ChipmarkError):
    """Weights that could not be fetched or found."""


class DoesNotFitError(ChipmarkError):
    """Weights, KV or a context larger than the device or the model holds; `hint`: what fits.

    sequences: how many sequences of the context asked for would fit; 0 where not even one does or
    where their number is not the matter.
    """

    def __init__(self, message: str, hint: str = "", *, sequences: int = 0) -> None:
        super().__init__(message, hint)
        self.sequences = sequences


def nearest_names(name: str, valid: Iterable[str], n: int = 3) -> list[str]:
    """Up to `n` valid names that look like `name`, best first."""
    names = list(valid)
    close = difflib.get_close_matches(name, names, n=n, cutoff=0.5)
    return close or [v for v in names if name and (v.startswith(name) or name in v)][:n]
