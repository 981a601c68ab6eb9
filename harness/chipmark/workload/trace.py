"""A trace: the work itself, as token ids, the same bits on every machine; and its file.

The layout of ids and the accounting of work tokens are described in `chipmark.workload.session`.
The file is one `.npz` of flat arrays and a JSON head; nothing in it is pickled, and all of it
is checked when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chipmark.errors import BadInputError, UsageError
from chipmark.workload.scale import Scale
from chipmark.workload.session import Ids, Loop, Session, Turn, check_session
from chipmark_models.files import whole_file
from chipmark_models.foreign_arrays import read_npz
from chipmark_models.foreign_file import parse_json

__all__ = [
    "TRACE_FORMAT",
    "Scale",
    "Session",
    "Totals",
    "Trace",
    "Turn",
    "load_trace",
    "save_trace",
]

TRACE_FORMAT = 1
"""Version of the canonical bytes and of the file; part of the hash."""

_TURN_COLUMNS = (
    "prompt_tokens",
    "n_new",
    "n_cached",
    "n_out",
    "tokens_start",
    "tokens_stop",
    "reset",
)
_HEAD: Mapping[str, Callable[[Any], bool]] = {
    "vocab_size": lambda value: type(value) is int and 0 < value < 1 << 31,
    "seed": lambda value: type(value) is int and abs(value) < 1 << 64,
    "name": lambda value: isinstance(value, str),
    "loop": lambda value: isinstance(value, str),
    "scale": lambda value: (
        isinstance(value, list) and len(value) == 3 and all(isinstance(v, str) for v in value)
    ),
}
"""What the head of a file must hold."""

_SESSION_COLUMNS = ("id", "group", "shared_prefix_tokens", "turns", "tokens")


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the turns of a trace, in tokens."""

    n_new: int
    n_cached: int
    n_out: int
    prompt_tokens: int
    turns: int
    sessions: int


@dataclass(frozen=True, eq=False)
class Trace:
    """Sessions of turns, with what they were made from.

    `loop` is `closed` (a session's next turn is sent when the one before and its tool time have
    ended; the next session when a lane is free) or `open` (sessions start at `arrival_s`).
    Raises `UsageError` when the parts contradict each other.
    """

    sessions: tuple[Session, ...]
    vocab_size: int
    name: str
    scale: Scale
    seed: int
    loop: Loop

    def __post_init__(self) -> None:
        if self.loop not in ("closed", "open"):
            raise UsageError(f"trace {self.name}: loop is {self.loop!r}, not closed or open")
        for session in self.sessions:
            check_session(session, self.vocab_size, self.loop)
            session.tokens.flags.writeable = False

    @cached_property
    def totals(self) -> Totals:
        """Work tokens of the whole trace."""
        turns = [turn for _, turn in self.walk()]
        return Totals(
            n_new=sum(t.n_new for t in turns),
            n_cached=sum(t.n_cached for t in turns),
            n_out=sum(t.n_out for t in turns),
            prompt_tokens=sum(t.prompt_tokens for t in turns),
            turns=len(turns),
            sessions=len(self.sessions),
        )

    @property
    def prefix_hit_ideal(self) -> float | None:
        """Sum of `n_cached` over sum of prompt tokens; None for a trace without turns."""
        totals = self.totals
        return totals.n_cached / totals.prompt_tokens if totals.prompt_tokens else None

    @property
    def max_context_tokens(self) -> int:
        """The longest context of any turn, output included: what a model must be able to hold."""
        return max((turn.context_tokens for _, turn in self.walk()), default=0)

    @cached_property
    def hash(self) -> str:
        """Hex sha256 over the canonical bytes of everything that defines the trace."""
        digest = hashlib.sha256()
        head = {
            "format": TRACE_FORMAT,
            "name": self.name,
            "scale": [self.scale.context, self.scale.output, self.scale.tool_time],
            "seed": self.seed,
            "loop": self.loop,
            "vocab_size": self.vocab_size,
            "sessions": len(self.sessions),
        }
        digest.update(json.dumps(head, sort_keys=True, separators=(",", ":")).encode())
        for session in self.sessions:
            counts = [session.id, session.group, session.shared_prefix_tokens]
            counts += [len(session.turns), session.tokens.size]
            for t in session.turns:
                counts += [t.prompt_tokens, t.n_new, t.n_cached, t.n_out]
                counts += [t.tokens_start, t.tokens_stop, int(t.reset)]
            arrival = -1.0 if session.arrival_s is None else session.arrival_s
            times = [arrival, *(t.tool_time_s for t in session.turns)]
            digest.update(np.asarray(counts, dtype="<i8").tobytes())
            digest.update(np.asarray(times, dtype="<f8").tobytes())
            digest.update(np.ascontiguousarray(session.tokens, dtype="<i4").data)
        return digest.hexdigest()

    def walk(self) -> Iterator[tuple[Session, Turn]]:
        """Every turn with its session, in trace order."""
        for session in self.sessions:
            for turn in session.turns:
                yield session, turn


def save_trace(trace: Trace, path: str | os.PathLike[str]) -> None:
    """Write a trace to `path` (`.npz`), whole or not at all; plain arrays, nothing pickled."""
    target = Path(path)
    head = {
        "format": TRACE_FORMAT,
        "hash": trace.hash,
        "name": trace.name,
        "scale": [trace.scale.context, trace.scale.output, trace.scale.tool_time],
        "seed": trace.seed,
        "loop": trace.loop,
        "vocab_size": trace.vocab_size,
    }
    sessions = trace.sessions
    turns = [turn for _, turn in trace.walk()]
    arrays: dict[str, npt.NDArray[Any]] = {
        "head": np.frombuffer(json.dumps(head).encode(), dtype=np.uint8),
        "tokens": _joined([s.tokens for s in sessions]),
        "arrival_s": np.array(
            [np.nan if s.arrival_s is None else s.arrival_s for s in sessions], dtype=np.float64
        ),
        "tool_time_s": np.array([t.tool_time_s for t in turns], dtype=np.float64),
        "sessions": np.array(
            [
                (s.id, s.group, s.shared_prefix_tokens, len(s.turns), s.tokens.size)
                for s in sessions
            ],
            dtype=np.int64,
        ).reshape(-1, len(_SESSION_COLUMNS)),
        "turns": np.array(
            [[int(getattr(t, name)) for name in _TURN_COLUMNS] for t in turns], dtype=np.int64
        ).reshape(-1, len(_TURN_COLUMNS)),
    }
    with whole_file(target) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load_trace(path: str | os.PathLike[str]) -> Trace:
    """Read a trace that `save_trace` wrote.

    Raises `BadInputError` when the file is not such a trace, contradicts itself, or is not what its
    own hash says.
    """
    arrays = read_npz(path)
    head = _read_head(path, arrays)
    sessions = tuple(_sessions(path, arrays))
    try:
        trace = Trace(
            sessions=sessions,
            vocab_size=head["vocab_size"],
            name=head["name"],
            scale=Scale(*head["scale"]),
            seed=head["seed"],
            loop=head["loop"],
        )
    except UsageError as error:
        raise BadInputError(path, error.message) from error
    if trace.hash != head.get("hash"):
        raise BadInputError(
            path,
            f"the content has sha256 {trace.hash[:12]}…, the file says {head.get('hash')!r}",
            field="hash",
            hint="the file was changed or cut; write it again",
        )
    return trace


def _joined(pieces: list[Ids]) -> Ids:
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int32)


def _read_head(path: str | os.PathLike[str], arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    names = ("head", "tokens", "arrival_s", "tool_time_s", "sessions", "turns")
    for name in names:
        if name not in arrays:
            raise BadInputError(path, "is missing from the trace file", field=name)
    head: Any = parse_json(arrays["head"].tobytes(), path, field="head")
    if not isinstance(head, dict):
        raise BadInputError(path, "is not a JSON object", field="head")
    if head.get("format") != TRACE_FORMAT:
        raise BadInputError(
            path,
            f"is {head.get('format')!r}; this version reads {TRACE_FORMAT}",
            field="format",
        )
    for name, right in _HEAD.items():
        if not right(head.get(name)):
            raise BadInputError(path, f"is {head.get(name)!r}", field=f"head.{name}")
    return head


def _sessions(path: object, arrays: dict[str, npt.NDArray[Any]]) -> list[Session]:
    table, turn_table = arrays["sessions"], arrays["turns"]
    tokens, gaps, arrivals = arrays["tokens"], arrays["tool_time_s"], arrays["arrival_s"]
    expected = (
        ("sessions", table, np.int64, (-1, len(_SESSION_COLUMNS))),
        ("turns", turn_table, np.int64, (-1, len(_TURN_COLUMNS))),
        ("tokens", tokens, np.int32, (-1,)),
        ("tool_time_s", gaps, np.float64, (len(turn_table) if turn_table.ndim else 0,)),
        ("arrival_s", arrivals, np.float64, (len(table) if table.ndim else 0,)),
    )
    for name, array, dtype, shape in expected:
        good_shape = array.ndim == len(shape) and all(
            want in (-1, have) for want, have in zip(shape, array.shape, strict=True)
        )
        if array.dtype != dtype or not good_shape:
            raise BadInputError(path, f"has {array.dtype} of shape {array.shape}", field=name)
    if (
        (table < 0).any()
        # Not NumPy's sum, which goes round at 2**63.
        or sum(table[:, 3].tolist()) != len(turn_table)
        or sum(table[:, 4].tolist()) != tokens.size
    ):
        raise BadInputError(path, "counts do not add up to the file's content", field="sessions")
    sessions: list[Session] = []
    turn_at, token_at = 0, 0
    for (number, group, shared, n_turns, n_tokens), arrival in zip(
        table.tolist(), arrivals.tolist(), strict=True
    ):
        turns = tuple(
            _turn(index, turn_table[turn_at + index].tolist(), float(gaps[turn_at + index]))
            for index in range(n_turns)
        )
        sessions.append(
            Session(
                id=number,
                group=group,
                shared_prefix_tokens=shared,
                arrival_s=None if np.isnan(arrival) else arrival,
                tokens=tokens[token_at : token_at + n_tokens].copy(),
                turns=turns,
            )
        )
        turn_at += n_turns
        token_at += n_tokens
    return sessions


def _turn(index: int, row: list[int], tool_time_s: float) -> Turn:
    values = dict(zip(_TURN_COLUMNS, row, strict=True))
    reset = bool(values.pop("reset"))
    return Turn(index=index, tool_time_s=tool_time_s, reset=reset, **values)
