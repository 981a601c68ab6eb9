"""Whether what a child answers to `load` can be: ranges, and words that are known."""

from __future__ import annotations

import math

from chipmark.cell.protocol import LoadAnswer
from chipmark.engine.computed import class_of
from chipmark.errors import CellFailedError, UnknownNameError


def check_loaded(answer: LoadAnswer) -> None:
    """CellFailedError where a number is out of its range (a coverage over 1, a time that is not
    finite), or where the words on the precision are not known."""
    for name in ("load_s", "compile_s", "wall_s"):
        if not 0 <= getattr(answer, name) < math.inf:
            raise _wrong(name, f"{getattr(answer, name)!r} is not a time")
    for name in ("weight_bytes", "kv_bytes"):
        if getattr(answer, name) < 0:
            raise _wrong(name, f"{getattr(answer, name)!r} is not a number of bytes")
    coverage = answer.ep_coverage
    if coverage is not None and not 0 <= coverage <= 1:
        raise _wrong("ep_coverage", f"{coverage!r} is not a share")
    words = answer.precision
    try:
        class_of(words.weights, words.activation, words.kv)
    except UnknownNameError as error:
        raise CellFailedError(f"load: the backend reports precision: {error.message}") from error


def _wrong(field: str, problem: str) -> CellFailedError:
    return CellFailedError(
        f"load: the backend reports {field}: {problem}",
        "`Loaded` of chipmark.engine.contract says what each field holds",
    )
