"""The event log of a run: appends arrays and tuples while it runs, makes tables at the end.

A decode step leaves references to arrays that exist already, so logging it costs a few list
appends, whatever the number of sessions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chipmark.engine.contract import I32, PHASES, Done
from chipmark.engine.events import COLUMNS, Table, check_tables, empty_table
from chipmark.engine.live import LiveRows
from chipmark.engine.scheduler import PlannedStep, is_cold
from chipmark.workload.session import Session, Turn

DONE, FAILED, DROPPED, UNFINISHED = 0, 1, 2, 3
"""Values of `status` in the tables of turns and sessions."""

_PHASE_INDEX = {phase: index for index, phase in enumerate(PHASES)}


class EventLog:
    """Collects one run. Raises ValueError where a backend's answer does not fit its step."""

    def __init__(self) -> None:
        self._steps: list[tuple[Any, ...]] = []
        self._launches: list[tuple[Any, ...]] = []
        self._rows: list[tuple[int, I32, I32, I32, I32, I32]] = []
        self._turns: list[tuple[Any, ...]] = []
        self._sessions: list[tuple[Any, ...]] = []

    def step(self, planned: PlannedStep, done: Done, engine_s: float, submit_s: float) -> None:
        """A finished step, its launches and their rows."""
        number = planned.step.id
        self._steps.append(
            (
                number,
                engine_s,
                submit_s,
                np.nan,
                np.nan,
                done.visible_s,
                done.h2d_bytes,
                done.d2h_bytes,
                done.kv_copied_bytes,
            )
        )
        at, seen = 0, 0
        for launch in done.launches:
            index = len(self._launches)
            times = (launch.start_s, launch.end_s, launch.host_s)
            if launch.plan < 0:
                kv = _PHASE_INDEX["kv"]
                self._launches.append((index, number, kv, 0, 0, 0, 0, 0, *times, 0))
                continue
            if launch.plan != seen:
                raise ValueError(f"step {number}: launch {launch.plan} came where {seen} was due")
            plan = planned.step.launches[seen]
            rows = plan.rows
            n = rows.seq.size
            decodes = plan.phase == "decode"
            self._launches.append(
                (
                    index,
                    number,
                    _PHASE_INDEX[plan.phase],
                    n,
                    n if decodes else int(rows.length.sum()),
                    max(plan.batch_bucket, launch.batch),
                    plan.chunk_bucket,
                    plan.context_bucket,
                    *times,
                    -1,
                )
            )
            if decodes:
                n_sampled = n
                sampled = None if done.sampled is None else done.sampled[at : at + n]
            else:
                n_sampled = int(np.count_nonzero(rows.sample))
                sampled = np.full(n, -1, dtype=np.int32)
                if done.sampled is not None:
                    sampled[rows.sample] = done.sampled[at : at + n_sampled]
            if sampled is None:
                sampled = np.full(n, -1, dtype=np.int32)
            self._rows.append(
                (index, rows.seq, planned.turns[seen], rows.start, rows.length, sampled)
            )
            at += n_sampled
            seen += 1
        if seen != len(planned.step.launches):
            raise ValueError(
                f"step {number}: {len(planned.step.launches)} launches planned, {seen} reported"
            )

    def turn(self, live: LiveRows, row: int, status: int) -> None:
        """A turn that was sent, as the live columns know it."""
        turn = live.turn_of(row)
        self._turns.append(
            (
                live.session[row],
                turn.index,
                row,
                is_cold(turn),
                status,
                live.intended_s[row],
                live.admitted_s[row],
                live.first_token_s[row],
                live.last_token_s[row],
                turn.prompt_tokens,
                turn.n_new,
                turn.n_cached,
                turn.n_out,
                live.prefilled[row],
                live.reused[row],
                live.refilled[row],
                live.copied[row],
            )
        )

    def turn_not_run(
        self, session: Session, turn: Turn, lane: int, status: int, intended_s: float = np.nan
    ) -> None:
        """A turn that never ran: failed before it began, dropped, or not reached."""
        times = (intended_s, np.nan, np.nan, np.nan)
        sizes = (turn.prompt_tokens, turn.n_new, turn.n_cached, turn.n_out)
        head = (session.id, turn.index, lane, is_cold(turn), status)
        self._turns.append((*head, *times, *sizes, 0, 0, 0, 0))

    def session(
        self, session: Session, lane: int, status: int, start_s: float, end_s: float, n_turns: int
    ) -> None:
        """A session that ended; `n_turns` of its turns were done."""
        self._sessions.append((session.id, lane, status, start_s, end_s, n_turns))

    def tables(self, window: tuple[float, float, int, float, float, int]) -> dict[str, Table]:
        """Everything as the tables of `chipmark.engine.events`, checked."""
        tables = {
            "steps": _table("steps", self._steps),
            "launches": _table("launches", self._launches),
            "rows": self._row_table(),
            "turns": _table("turns", self._turns),
            "sessions": _table("sessions", self._sessions),
            "window": _table("window", [window]),
        }
        check_tables(tables)
        return tables

    def _row_table(self) -> Table:
        if not self._rows:
            return empty_table("rows")
        counts = [chunk[1].size for chunk in self._rows]
        columns = [np.repeat(np.array([c[0] for c in self._rows]), counts)]
        columns += [np.concatenate([chunk[at] for chunk in self._rows]) for at in range(1, 6)]
        columns += [np.full(sum(counts), np.nan)] * 2
        return {
            name: column.astype(dtype)
            for (name, dtype), column in zip(COLUMNS["rows"].items(), columns, strict=True)
        }


def _table(name: str, records: list[tuple[Any, ...]]) -> Table:
    if not records:
        return empty_table(name)
    return {
        column: np.array(values).astype(dtype)
        for (column, dtype), values in zip(
            COLUMNS[name].items(), zip(*records, strict=True), strict=True
        )
    }
