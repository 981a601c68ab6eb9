"""What a child is told: one JSON file, and the commands that follow it, a line each.

Plain frozen dataclasses and the standard library: a child may run under a vendor's interpreter.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from chipmark.errors import BadInputError, UnknownNameError

SCHEMA = "chipmark.child/1"


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A cell as its child sees it.

    model: WeightSpec.to_dict(), {} for `sim:`. n_seqs: sequences that live at once. kv_tokens:
    tokens of KV over all of them. max_chunk: most prompt tokens of one launch, which is also the
    engine's token budget. scratch: a folder of the cell's own for caches and dumps.
    """

    backend: str
    model: dict[str, Any]
    precision: str
    n_seqs: int
    max_context: int
    kv_tokens: int
    max_chunk: int
    threads: int
    feedback: Literal["forced", "sampled"]
    scratch: str
    options: dict[str, Any] = field(default_factory=dict)
    reserved_slots: int = 1
    schema: str = SCHEMA

    def to_json(self) -> str:
        """One JSON object; `from_json` is its inverse."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @staticmethod
    def from_json(text: str, path: str | Path = "spec") -> ChildSpec:
        """Parse and check; BadInputError names the field."""
        return parse(ChildSpec, text, path)


@dataclass(frozen=True, slots=True)
class RunCommand:
    """One timed repeat. capture: (session, turn) whose logits go to `captured`; -1 for none.
    power: where a simulated device writes its power samples. deadline_s: turns that have not
    ended by then are left unfinished. sessions: of the trace from its start, 0 for all."""

    trace: str
    events: str
    concurrency: int
    scenario: Literal["equal_n", "capacity"]
    deadline_s: float
    capture_session: int = -1
    capture_turn: int = -1
    captured: str = ""
    power: str = ""
    sessions: int = 0

    @staticmethod
    def from_json(text: str) -> RunCommand:
        """Parse and check; BadInputError names the field."""
        return parse(RunCommand, text, "run command")


T = typing.TypeVar("T")


def parse(kind: type[T], text: str, path: str | Path) -> T:
    """A dataclass of scalars, dicts and lists from a JSON object, every field's type checked."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise BadInputError(path, f"is not JSON ({error})") from error
    if not isinstance(data, dict):
        raise BadInputError(path, "is not a JSON object")
    return from_mapping(kind, data, path)


def from_mapping(kind: type[T], data: dict[str, Any], path: str | Path) -> T:
    """The same from a dictionary: unknown, lacking and wrongly typed fields are named."""
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    for key in data:
        if key not in fields:
            raise BadInputError(path, UnknownNameError("field", key, fields).message)
    for name, item in fields.items():
        if name not in data:
            required = (
                item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
            )
            if required:
                raise BadInputError(path, "is lacking", field=name)
        elif not _fits(data[name], hints[name]):
            raise BadInputError(path, f"{data[name]!r} is not {_named(hints[name])}", field=name)
    return kind(**data)


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
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
    return isinstance(value, plain)


def _named(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(repr(value) for value in typing.get_args(hint))
    return getattr(typing.get_origin(hint) or hint, "__name__", str(hint))
