"""Whether what a child answers to `load` and `run` can be: ranges, and words that are known."""

from __future__ import annotations

import math

from chipmark.cell.protocol import LoadAnswer, RunAnswer
from chipmark.engine.computed import class_of
from chipmark.engine.contract import HostOperator
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
    if not answer.emulated.isprintable():
        raise _wrong("emulated", f"{answer.emulated!r} is not a line of text")
    for index, left in enumerate(answer.host_operators):
        _check_operator(f"host_operators.{index}", left)
    for name in ("flops_share", "bytes_share"):
        total = math.fsum(getattr(left, name) for left in answer.host_operators)
        if total > 1 + _ROUNDING:
            raise _wrong("host_operators", f"{name} adds up to {total:g}, over 1")
    words = answer.precision
    try:
        class_of(words.weights, words.activation, words.kv)
    except UnknownNameError as error:
        raise CellFailedError(f"load: the backend reports precision: {error.message}") from error


def check_ran(answer: RunAnswer) -> None:
    """CellFailedError where a number of a repeat is out of its range."""
    peak = answer.peak_device_bytes
    if peak is not None and peak < 0:
        raise _wrong("peak_device_bytes", f"{peak!r} is not a number of bytes", "run")
    for way, count in answer.launches.items():
        if not way.isprintable() or count < 0:
            raise _wrong("launches", f"{way!r}: {count!r} is not a number of launches", "run")


_ROUNDING = 1e-6


def _check_operator(where: str, left: HostOperator) -> None:
    if not left.name or not left.name.isprintable():
        raise _wrong(f"{where}.name", f"{left.name!r} is not a name")
    if left.count < 1:
        raise _wrong(f"{where}.count", f"{left.count!r} is not a count")
    for name in ("flops_share", "bytes_share"):
        if not 0 <= getattr(left, name) <= 1:
            raise _wrong(f"{where}.{name}", f"{getattr(left, name)!r} is not a share")


def _wrong(field: str, problem: str, step: str = "load") -> CellFailedError:
    return CellFailedError(
        f"{step}: the backend reports {field}: {problem}",
        "`Loaded` and `Backend` of chipmark.engine.contract say what each holds",
    )
