"""What a child answers to `load`, checked before anything is concluded from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chipmark.engine.computed import linear_input_of
from chipmark.errors import CellFailedError, UnknownNameError
from chipmark_models.precision import precision_class

_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Bytes = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    """Further fields are allowed: a backend may report more."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")


class _Words(_Part):
    weights: str
    activation: str
    kv: str
    accumulate: str


class _Caps(_Part):
    kv: str
    execution: str
    clock: str
    max_context: _Bytes
    n_slots: _Bytes
    n_pages: _Bytes
    page_tokens: _Bytes
    context_buckets: list[int]


class _Answer(_Part):
    caps: _Caps
    load_s: _Seconds
    compile_s: _Seconds
    weight_bytes: _Bytes
    kv_bytes: _Bytes
    precision: _Words
    graph: str
    ep_coverage: Annotated[float, Field(ge=0, le=1)] | None
    device: str
    details: dict[str, Any]
    notes: list[dict[str, str]]
    describe: dict[str, Any]


def check_loaded(answer: Mapping[str, Any]) -> None:
    """CellFailedError where a field is missing, of another type or out of its range (a coverage
    over 1 or not a number), or where the words on the precision are not known."""
    try:
        found = _Answer.model_validate(dict(answer))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise CellFailedError(
            f"load: the backend reports {field}: {first['msg']}",
            "`Loaded` of chipmark.engine.contract says what each field holds",
        ) from error
    words = found.precision
    try:
        precision_class(words.weights, linear_input_of(words.activation), words.kv)
    except UnknownNameError as error:
        raise CellFailedError(f"load: the backend reports precision: {error.message}") from error
