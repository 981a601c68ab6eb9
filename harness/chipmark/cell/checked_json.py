"""Frozen dataclasses to JSON and back, every field checked: what parent and child tell each other.

Standard library only: a child may run under a vendor's interpreter.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from chipmark.errors import BadInputError, UnknownNameError
from chipmark_models.foreign_file import parse_json
from chipmark_models.plain_text import one_line

T = typing.TypeVar("T")


class FieldError(Exception):
    """A field that is unknown, missing or of another type."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"field {field!r}: {problem}")
        self.field = field
        """Its path: names and indices joined by dots."""
        self.problem = problem
        """What is wrong with it."""


def to_mapping(value: Any) -> dict[str, Any]:
    """A dataclass as JSON types; `from_mapping` is its inverse."""
    return dataclasses.asdict(value)


def parse(kind: type[T], text: str, path: str | Path) -> T:
    """A dataclass from the text of a JSON object. BadInputError names `path` and the field."""
    data = parse_json(text, path, finite=False)
    if not isinstance(data, dict):
        raise BadInputError(path, "must be a JSON object")
    try:
        return from_mapping(kind, data)
    except FieldError as error:
        raise BadInputError(path, error.problem, field=error.field) from error


def from_mapping(kind: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """A dataclass from a mapping, dataclasses within it too. Raises FieldError."""
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    for key in data:
        if key not in fields:
            raise FieldError(f"{where}{key}", UnknownNameError("field", str(key), fields).message)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _value(hints[name], data[name], f"{where}{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise FieldError(f"{where}{name}", "is missing")
    return kind(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise FieldError(where, f"{_shown(value)} is not an object")
        return from_mapping(hint, value, f"{where}.")
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and len(inner) == 2 and inner[1] is Ellipsis:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise FieldError(where, f"{_shown(value)} is not a list")
        return tuple(_value(inner[0], item, f"{where}.{i}") for i, item in enumerate(value))
    if not _fits(value, hint):
        raise FieldError(where, f"{_shown(value)} is not {_named(hint)}")
    return value


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(hint))
    if origin is Literal:
        return value in typing.get_args(hint)
    if hint is type(None):
        return value is None
    plain = origin or hint
    if plain is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if plain is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is not None and issubclass(plain, Mapping) and isinstance(value, Mapping):
        _, of = typing.get_args(hint)
        return all(isinstance(key, str) and _fits(item, of) for key, item in value.items())
    return isinstance(value, plain)


def _named(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(repr(value) for value in typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_named(part) for part in typing.get_args(hint))
    if hint is type(None):
        return "null"
    return str(getattr(typing.get_origin(hint) or hint, "__name__", hint))


def _shown(value: Any) -> str:
    return one_line(repr(value), 80)
