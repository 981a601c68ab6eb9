"""A typed view of one repeat's event tables, and the checks that they tell one story.

Rows are joined to launches and turns once; everything else in this package is arithmetic on the
joined columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chipmark.engine.contract import PHASES
from chipmark.engine.events import Table

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

PHASE_INDEX: Mapping[str, int] = {name: index for index, name in enumerate(PHASES)}
PREFILL = tuple(PHASE_INDEX[p] for p in ("prefill_cold", "prefill_append", "prefill_refill"))
DECODE, MIXED, KV = (PHASE_INDEX[p] for p in ("decode", "mixed", "kv"))

DONE, FAILED, DROPPED, UNFINISHED = 0, 1, 2, 3
"""`status` of a turn or session, as `chipmark.engine.events` has it."""

EDGE_S = 1e-9
"""Slack for times that were rounded on their way through two clocks' arithmetic."""


@dataclass(frozen=True, slots=True)
class RepeatView:
    """Joined columns of one repeat.

    launch_in: launches that ended inside the window W, those that ended the very moment it began
    not included. turn_in: turns that were sent inside W and, where they ended, ended inside it (in
    the capacity scenario a run is longer than W). Per row of `rows`: `row_launch` and
    `row_turn` are indices into those tables (-1: no such turn, as in KV copies), `row_phase` the
    launch's phase, `row_prompt` whether it computed prompt positions, `row_in` whether its launch
    is in W.
    """

    tables: Mapping[str, Table]
    start_s: float
    end_s: float
    launch_in: Bools
    turn_in: Bools
    launch_seconds: Floats
    row_launch: Ints
    row_turn: Ints
    row_phase: Ints
    row_prompt: Bools
    row_in: Bools

    @property
    def window_s(self) -> float:
        """W in seconds."""
        return self.end_s - self.start_s

    def column(self, table: str, name: str) -> NDArray[Any]:
        """A raw column."""
        return self.tables[table][name]


def view(tables: Mapping[str, Table], within: tuple[float, float] | None = None) -> RepeatView:
    """Join the tables of one repeat. within: start and end of W where that is not the tables' own
    (the unit's, of several replicas). ValueError where keys are missing or doubled."""
    window, launches, rows, turns = (tables[n] for n in ("window", "launches", "rows", "turns"))
    if len(window["start_s"]) != 1:
        raise ValueError(f"the table 'window' has {len(window['start_s'])} rows, not 1")
    start_s, end_s = within or (float(window["start_s"][0]), float(window["end_s"][0]))
    end = launches["end_s"]
    began = (end > start_s + EDGE_S) | (launches["start_s"] >= start_s - EDGE_S)
    launch_in = began & (end <= end_s + EDGE_S)
    # A turn that was dropped was never sent and has no times.
    sent = (turns["intended_s"] >= start_s - EDGE_S) | np.isnan(turns["intended_s"])
    ended = turns["last_token_s"] <= end_s + EDGE_S
    row_launch = _lookup(launches["launch"], rows["launch"], "launch")
    if (row_launch < 0).any():
        raise ValueError("a row names a launch that is not in the table 'launches'")
    if len(lacking := np.setdiff1d(launches["step"], tables["steps"]["step"])):
        raise ValueError(f"launches name step {lacking[0]}, which is not in the table 'steps'")
    row_turn = _turn_of_rows(turns, rows, end[row_launch])
    phase = launches["phase"].astype(np.int64)
    row_phase = phase[row_launch]
    prompt = np.where(
        row_turn >= 0, turns["prompt_tokens"][row_turn] if len(turns["turn"]) else 0, 0
    )
    return RepeatView(
        tables=tables,
        start_s=start_s,
        end_s=end_s,
        launch_in=launch_in,
        turn_in=np.asarray(sent & (ended | (turns["status"] != DONE)), dtype=np.bool_),
        launch_seconds=np.asarray(end - launches["start_s"], dtype=np.float64),
        row_launch=row_launch,
        row_turn=row_turn,
        row_phase=row_phase,
        row_prompt=(rows["start"] < prompt) & (row_phase != KV),
        row_in=launch_in[row_launch],
    )


def _turn_of_rows(turns: Table, rows: Table, ended_s: Floats) -> Ints:
    """Index of each row's turn. A session that a lane ran again (capacity scenario) has the same
    turn several times; the row belongs to the last one that had been sent when its launch ended."""
    keys = _turn_key(turns["session"], turns["turn"])
    wanted = _turn_key(rows["session"], rows["turn"])
    order = np.lexsort((turns["intended_s"], keys))
    ordered, sent = keys[order], turns["intended_s"][order]
    if not len(ordered):
        return np.full(len(wanted), -1, dtype=np.int64)
    first = np.searchsorted(ordered, wanted, side="left")
    stop = np.searchsorted(ordered, wanted, side="right")
    at = np.minimum(first, len(ordered) - 1)
    for row in np.flatnonzero(stop - first > 1):
        low, high = int(first[row]), int(stop[row])
        at[row] = max(low, low + int(np.searchsorted(sent[low:high], ended_s[row], "right")) - 1)
    return np.where(stop > first, order[at], -1).astype(np.int64)


def _turn_key(session: NDArray[Any], turn: NDArray[Any]) -> Ints:
    return session.astype(np.int64) * (1 << 31) + turn.astype(np.int64)


def _lookup(keys: NDArray[Any], wanted: NDArray[Any], what: str) -> Ints:
    """Index of each wanted key in `keys`, -1 where it is not there; ValueError for doubled keys."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    if len(ordered) > 1 and (ordered[1:] == ordered[:-1]).any():
        raise ValueError(f"the same {what} stands twice in the events")
    if not len(ordered):
        return np.full(len(wanted), -1, dtype=np.int64)
    at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return np.where(ordered[at] == wanted, order[at], -1).astype(np.int64)
