"""The one way to read a file that somebody else may have made.

Records, price books, traces and checkpoints come from other sites and vendors. What is read here
is a regular file (no pipe, no device, no way out of its folder), of a bounded size and depth, and
whatever is wrong with it is a `BadInputError` of one line that names file and field. Arrays are
read by `chipmark_models.foreign_arrays`. Standard library only.
"""

from __future__ import annotations

import json
import math
import os
import stat
import tomllib
from collections.abc import Callable
from fractions import Fraction
from io import BufferedReader
from pathlib import Path
from typing import Any

from chipmark_models.errors import BadInputError
from chipmark_models.plain_text import one_line

MIB = 1 << 20
SETTINGS_BYTES = MIB
"""Most bytes of a file that a person writes: a suite, a price book, a profile, thresholds."""

DATA_BYTES = 512 * MIB
"""Most bytes of a JSON file that a tool writes with every sample in it."""

DEPTH = 64
"""Most levels of lists and objects within each other."""

_EXPONENT = 400
"""Largest power of ten of an exact number, beyond that of a double: 1e999999999 as a fraction would
be an integer of 400 MB."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

PathLike = str | os.PathLike[str]
Error = type[BadInputError]


def open_foreign(
    path: PathLike, *, within: PathLike | None = None, error: Error = BadInputError, hint: str = ""
) -> BufferedReader:
    """A regular file, opened for reading; close it. The size is `size_of(file)`.

    within: the folder that it must lie in, links followed. Raises `error` for a file that is
    missing, is a pipe or a device, leads out of `within`, or cannot be opened.
    """
    try:
        # Looked at before it is opened: the opening of a device may do something already.
        _check_regular(path, os.stat(path).st_mode, error, hint)
        if within is not None and not lies_in(path, within):
            raise error(path, "leads out of its folder", hint=hint)
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        raise error(path, "no such file", hint=hint) from None
    except (OSError, ValueError) as why:  # ValueError: a zero byte in the name
        raise error(path, f"cannot be read: {_reason(why)}", hint=hint) from why
    file = os.fdopen(handle, "rb")
    try:
        _check_regular(path, os.fstat(handle).st_mode, error, hint)
    except BaseException:
        file.close()
        raise
    return file


def size_of(file: BufferedReader) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def read_bytes(
    path: PathLike,
    limit: int,
    *,
    within: PathLike | None = None,
    error: Error = BadInputError,
    hint: str = "",
) -> bytes:
    """The content of a file of at most `limit` bytes. Raises `error`, see `open_foreign`."""
    with open_foreign(path, within=within, error=error, hint=hint) as file:
        size = size_of(file)
        if size > limit:
            raise error(path, f"has {size:,} bytes; at most {limit:,} are read", hint=hint)
        try:
            content = file.read(size + 1)
        except OSError as why:
            raise error(path, f"cannot be read: {_reason(why)}", hint=hint) from why
    if len(content) > size:
        raise error(path, "changed while it was read", hint=hint)
    return content


def read_text(
    path: PathLike,
    limit: int,
    *,
    within: PathLike | None = None,
    error: Error = BadInputError,
    hint: str = "",
) -> str:
    """As `read_bytes`, decoded from UTF-8."""
    content = read_bytes(path, limit, within=within, error=error, hint=hint)
    return decode(content, path, error=error, hint=hint)


def read_json(
    path: PathLike,
    limit: int,
    *,
    within: PathLike | None = None,
    finite: bool = True,
    error: Error = BadInputError,
    hint: str = "",
) -> Any:
    """The JSON document of a file of at most `limit` bytes, see `parse_json`."""
    text = read_text(path, limit, within=within, error=error, hint=hint)
    return parse_json(text, path, finite=finite, error=error, hint=hint)


def read_toml(
    path: PathLike,
    limit: int = SETTINGS_BYTES,
    *,
    parse_float: Callable[[str], Any] = float,
    error: Error = BadInputError,
    hint: str = "",
) -> dict[str, Any]:
    """The tables of a TOML file of at most `limit` bytes, see `parse_toml`."""
    text = read_text(path, limit, error=error, hint=hint)
    return parse_toml(text, path, parse_float=parse_float, error=error, hint=hint)


def decode(content: bytes, path: PathLike, *, error: Error = BadInputError, hint: str = "") -> str:
    """Text of bytes of UTF-8; `error` says at which byte it is none."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as why:
        text = f"is not UTF-8 at byte {why.start}: {why.reason}"
        raise error(path, text, hint=hint) from why


def parse_json(
    text: str | bytes,
    path: PathLike,
    *,
    line: int | None = None,
    field: str = "",
    finite: bool = True,
    unique: bool = False,
    depth: int = DEPTH,
    parse_float: Callable[[str], Any] = float,
    error: Error = BadInputError,
    hint: str = "",
) -> Any:
    """A JSON document; `path`, `line` and `field` name it in errors.

    finite: refuse NaN, Infinity and what overflows to it. unique: refuse an object with a name
    twice. parse_float: `exact` where a fraction is computed with. Raises `error` for invalid JSON,
    and for more than `depth` levels.
    """
    if isinstance(text, bytes):
        text = decode(text, path, error=error, hint=hint)
    options: dict[str, Any] = {"object_pairs_hook": _no_name_twice} if unique else {}
    try:
        document = json.loads(text, parse_float=parse_float, **options)
    except json.JSONDecodeError as why:
        cut = why.pos >= len(text.rstrip()) or "Unterminated" in why.msg
        where = line if line is not None or "\n" not in text.strip() else why.lineno
        problem = f"{'truncated or ' if cut else ''}invalid JSON: {why.msg}"
        raise error(path, problem, line=where, field=field, hint=hint) from why
    except RecursionError:
        raise error(path, _too_deep(depth), line=line, field=field, hint=hint) from None
    except (ValueError, ArithmeticError) as why:  # a number of over 4,300 digits, a name twice
        problem = f"invalid JSON: {_of_number(why)}"
        raise error(path, problem, line=line, field=field, hint=hint) from why
    try:
        check_values(document, finite=finite, depth=depth)
    except _ValueFault as fault:
        at = ".".join(part for part in (field, fault.field) if part)
        raise error(path, fault.problem, line=line, field=at, hint=hint) from None
    return document


def parse_toml(
    text: str,
    path: PathLike,
    *,
    parse_float: Callable[[str], Any] = float,
    error: Error = BadInputError,
    hint: str = "",
) -> dict[str, Any]:
    """The tables of a TOML text. Raises `error` for invalid TOML, a number that is not finite, and
    for more than DEPTH levels."""
    try:
        document = tomllib.loads(text, parse_float=parse_float)
    except RecursionError:
        raise error(path, _too_deep(DEPTH), hint=hint) from None
    except (ValueError, ArithmeticError) as why:  # TOMLDecodeError, a number's digits, a date
        raise error(path, f"invalid TOML: {_of_number(why)}", hint=hint) from why
    try:
        check_values(document)
    except _ValueFault as fault:
        raise error(path, fault.problem, field=fault.field, hint=hint) from None
    return document


def exact(text: str) -> Fraction:
    """A decimal number as the fraction that it is, for `parse_float`.

    Raises ValueError for a number that is none, or whose power of ten is beyond that of a double.
    """
    _, _, exponent = text.lower().partition("e")
    if len(text) > _EXPONENT or (exponent and abs(int(exponent)) > _EXPONENT):
        raise ValueError(f"{one_line(text, 40)} is out of range")
    return Fraction(text)


_SIMPLE = frozenset((str, int, bool, type(None)))
"""Types of values with nothing to check."""


class _ValueFault(ValueError):
    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field, self.problem = field, problem


def check_values(document: Any, *, finite: bool = True, depth: int = DEPTH) -> None:
    """Raise a fault with the field of the first value of a parsed document that is not finite
    (where `finite`), or that lies more than `depth` levels deep."""
    todo: list[tuple[Any, int, tuple[Any, ...] | None]] = [(document, 1, None)]
    if isinstance(document, float) and finite and not math.isfinite(document):
        raise _ValueFault("", f"{document} is not a finite number")
    while todo:
        value, level, at = todo.pop()
        if isinstance(value, dict):
            items: Any = value.items()
            values: Any = value.values()
        elif isinstance(value, list):
            items, values = enumerate(value), value
        else:
            continue
        if level > depth:
            raise _ValueFault(_name(at), _too_deep(depth))
        if _SIMPLE.issuperset(map(type, values)):
            continue
        for key, inner in items:
            kind = type(inner)
            if kind is dict or kind is list:
                todo.append((inner, level + 1, (at, key)))
            elif kind is float and finite and not math.isfinite(inner):
                raise _ValueFault(_name((at, key)), f"{inner} is not a finite number")


def _name(at: tuple[Any, ...] | None) -> str:
    parts: list[str] = []
    while at is not None:
        at, key = at
        parts.append(str(key))
    return one_line(".".join(reversed(parts)), 120)


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{one_line(twice, 80)!r} stands twice")
    return found


def _too_deep(depth: int) -> str:
    return f"is nested more than {depth} levels deep"


def _of_number(why: Exception) -> str:
    # Python's own sentence tells a programmer how to lift the limit.
    return "a number has over 4,300 digits" if "digits" in str(why) else str(why)


def _check_regular(path: PathLike, mode: int, error: Error, hint: str) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "something else")
        raise error(path, f"is {kind}, not a regular file", hint=hint)


def lies_in(path: PathLike, folder: PathLike) -> bool:
    """Whether a path leads into a folder, `..` and links followed."""
    above, name = os.path.split(path)
    if above == os.fspath(folder) and name not in ("", ".", "..") and not os.path.islink(path):
        return True  # without a look at every folder above, for each of thousands of files
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _reason(why: OSError | ValueError) -> str:
    return str(getattr(why, "strerror", None) or why)
