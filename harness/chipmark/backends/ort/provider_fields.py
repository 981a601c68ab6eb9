"""The table of one provider in a file of the user's, checked: file, field, fix."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from chipmark.errors import BadInputError, UnknownNameError
from chipmark_models.onnx_graphs.emitter import LEVELS
from chipmark_models.onnx_graphs.quantised_linear import ACCURACY_LEVELS, QuantisedOperator
from chipmark_models.precision import precision_named

KINDS = ("classic", "plugin")
STATIC = ("batch", "chunk", "context")
LIBRARY_SUFFIXES = (".so", ".dll", ".dylib")

_OF_THIS_PROJECT = ("verified", "origin")
_TEXT_TABLES = ("options", "classic_options", "emulated_on")
_TABLES_OF_TABLES = ("precision_options",)


def checked_table(
    path: Path, name: str, table: object, default: Mapping[str, Any], valid: Collection[str]
) -> dict[str, Any]:
    """The table `[name]` of the user's file `path`, a library's path relative to it made absolute.

    default: the values of what is left out. valid: all fields that there are. Raises BadInputError
    with the file, the field and the fix.
    """
    if not isinstance(table, dict):
        hint = f'as [{name}] and below it module = "PYTHON_MODULE"'
        raise BadInputError(path, "must be a table", field=name, hint=hint)
    for key, value in table.items():
        where = f"{name}.{key}"
        if key in _OF_THIS_PROJECT:
            problem = "is not for a file of the user's: it says what this project ran"
            raise BadInputError(path, problem, field=where, hint="remove it")
        if key not in valid:
            problem = UnknownNameError(f"field of provider {name!r}", key, valid).message
            raise BadInputError(path, problem, field=where)
        _check_type(path, where, key, value, default.get(key))
        _check_value(path, where, key, value)
    return _whole(path, name, table, default)


def _check_type(path: Path, where: str, key: str, value: object, like: object) -> None:
    if key in _TEXT_TABLES:
        _check_texts(path, where, value)
    elif key in _TABLES_OF_TABLES:
        if not isinstance(value, dict):
            hint = f'as [{where}.fp32] and below it KEY = "VALUE"'
            raise BadInputError(path, "must be a table for each precision", field=where, hint=hint)
        for precision, inner in value.items():
            _check_texts(path, f"{where}.{precision}", inner)
    elif like is not None and type(value) is not type(like):
        text = f"must be of type {type(like).__name__}, not {value!r}"
        raise BadInputError(path, text, field=where, hint=f"as {key} = {_example(like)}")
    elif isinstance(value, list):
        items = int if key.endswith("_buckets") else str
        if not all(type(item) is items for item in value):
            raise BadInputError(path, f"must be a list of {items.__name__}", field=where)


def _check_texts(path: Path, where: str, value: object) -> None:
    if not isinstance(value, dict):
        hint = f'as [{where}] and below it KEY = "VALUE"'
        raise BadInputError(path, "must be a table", field=where, hint=hint)
    for key, text in value.items():
        if not isinstance(text, str):
            problem, hint = f"must be a text, not {text!r}", f'as {key} = "{_as_text(text)}"'
            raise BadInputError(path, problem, field=f"{where}.{key}", hint=hint)


def _check_value(path: Path, where: str, key: str, value: Any) -> None:
    if key == "kind" and value not in KINDS:
        raise BadInputError(path, f"must be classic or plugin, not {value!r}", field=where)
    if key == "graph":
        _check_name(path, where, "graph level", value, LEVELS)
    if key == "quantised":
        operators = [str(operator) for operator in QuantisedOperator]
        _check_name(path, where, "operator of products", value, operators)
    if key == "accuracy_level" and value not in ACCURACY_LEVELS:
        known = ", ".join(map(str, ACCURACY_LEVELS))
        raise BadInputError(path, f"{value} is not one of {known}", field=where)
    if key == "static":
        for item in value:
            _check_name(path, where, "dimension", item, STATIC)
    if key in ("precisions", "precision_options"):
        for item in value:
            try:
                precision_named(item)
            except UnknownNameError as error:
                raise BadInputError(path, error.message, field=where) from error
    if key == "precisions" and not value:
        raise BadInputError(path, "is empty", field=where, hint='as precisions = ["fp32"]')
    if key.endswith("_buckets") and (value != sorted(set(value)) or any(v < 1 for v in value)):
        hint = f"as {key} = [64, 256]"
        raise BadInputError(path, "must be sizes that grow from 1 on", field=where, hint=hint)
    if key == "device" and value and "=" not in value:
        hint = 'as device = "ov_device=CPU"'
        raise BadInputError(path, f"{value!r} is not KEY=VALUE", field=where, hint=hint)


def _check_name(path: Path, where: str, what: str, value: str, valid: Collection[str]) -> None:
    if value not in valid:
        raise BadInputError(path, UnknownNameError(what, value, valid).message, field=where)


def _whole(
    path: Path, name: str, table: Mapping[str, Any], default: Mapping[str, Any]
) -> dict[str, Any]:
    """The table, where it names what it needs to be found."""
    given = {**default, **table}
    if given["kind"] == "classic" and not given["ep_name"]:
        hint = 'as ep_name = "MyExecutionProvider", which get_available_providers() of it lists'
        raise BadInputError(path, "is missing", field=f"{name}.ep_name", hint=hint)
    if given["kind"] == "plugin" and not given["module"]:
        library = str(given["library"])
        if not library.endswith(LIBRARY_SUFFIXES):
            hint = 'as module = "onnxruntime_ep_mychip", or library = "libmychip_ep.so"'
            raise BadInputError(path, "is missing", field=f"{name}.module", hint=hint)
        beside = (path.parent / Path(library).expanduser()).resolve()
        return {**table, "library": str(beside)}
    return dict(table)


def _example(like: object) -> str:
    if isinstance(like, (bool, int)):
        return _as_text(like)
    return '["fp32"]' if isinstance(like, list) else '"…"'


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
