"""The event log of a run: appends arrays and tuples while it runs, makes tables at the end.

A decode step leaves references to arrays that exist already, so logging it costs a few list
appends, whatever the number of sessions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from chipmark.engine.contract import F32, I32, PHASES, Caps, Done, Launch, LaunchPlan, Rows
from chipmark.engine.events import COLUMNS, Table, check_tables, empty_table
from chipmark.engine.live import LiveRows
from chipmark.engine.scheduler import PlannedStep, is_cold
from chipmark.workload.session import Session, Turn

DONE, FAILED, DROPPED, UNFINISHED = 0, 1, 2, 3
"""Values of `status` in the tables of turns and sessions."""

_PHASE_INDEX = {phase: index for index, phase in enumerate(PHASES)}


class StepTimes(NamedTuple):
    """A step by the engine's clock: around `submit`, and around `wait`, at whose end the host sees
    the tokens. engine_s: the engine's own work on it, both calls not included."""

    engine_s: float
    submit_s: float
    submitted_s: float
    wait_s: float
    visible_s: float


class EventLog:
    """Collects one run. Raises ValueError where a backend's answer does not fit its step."""

    def __init__(self, caps: Caps) -> None:
        self._padded = bool(caps.batch_buckets or caps.chunk_buckets)
        self._steps: list[tuple[Any, ...]] = []
        self._launches: list[tuple[Any, ...]] = []
        self._rows: list[tuple[Any, ...]] = []
        self._turns: list[tuple[Any, ...]] = []
        self._sessions: list[tuple[Any, ...]] = []

    def step(self, planned: PlannedStep, done: Done, times: StepTimes) -> None:
        """A finished step, its launches and their rows."""
        number = planned.step.id
        _check_sampled(done, sum(_n_sampled(plan) for plan in planned.step.launches))
        moved = (done.h2d_bytes, done.d2h_bytes, done.kv_copied_bytes)
        self._steps.append((number, *times, *moved))
        _check_kv(done, planned)
        at, seen = 0, 0
        for launch in done.launches:
            index = len(self._launches)
            ran = (launch.start_s, launch.end_s, launch.host_s)
            if launch.plan < 0:
                kv = _PHASE_INDEX["kv"]
                self._launches.append((index, number, kv, 0, 0, 0, 0, 0, *ran, 0))
                continue
            if launch.plan != seen:
                raise ValueError(f"step {number}: launch {launch.plan} came where {seen} was due")
            plan = planned.step.launches[seen]
            rows = plan.rows
            n = rows.seq.size
            decodes = plan.phase == "decode"
            n_tokens = n if decodes else int(rows.length.sum())
            self._launches.append(
                (
                    index,
                    number,
                    _PHASE_INDEX[plan.phase],
                    n,
                    n_tokens,
                    plan.batch_bucket,
                    plan.chunk_bucket,
                    plan.context_bucket,
                    *ran,
                    self._positions(launch, plan, n_tokens),
                )
            )
            n_sampled = _n_sampled(plan)
            seen_of = _sampled_of(rows, done, slice(at, at + n_sampled), whole=decodes)
            row_columns = (rows.seq, planned.turns[seen], rows.start, rows.length)
            self._rows.append((index, *row_columns, *seen_of))
            at += n_sampled
            seen += 1
        if seen != len(planned.step.launches):
            raise ValueError(
                f"step {number}: {len(planned.step.launches)} launches planned, {seen} reported"
            )

    def _positions(self, launch: Launch, plan: LaunchPlan, n_tokens: int) -> int:
        """Positions that a launch computed, padding included."""
        if launch.positions:
            if launch.positions < n_tokens:
                raise ValueError(
                    f"a launch of {n_tokens} tokens cannot compute {launch.positions} positions"
                )
            return launch.positions
        return plan.batch_bucket * plan.chunk_bucket if self._padded else n_tokens

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
        best = np.concatenate([chunk[6] for chunk in self._rows])
        columns += [best[:, 0], best[:, 1]]
        return {
            name: column.astype(dtype)
            for (name, dtype), column in zip(COLUMNS["rows"].items(), columns, strict=True)
        }


def _n_sampled(plan: LaunchPlan) -> int:
    if plan.phase == "decode":
        return plan.rows.seq.size
    return int(np.count_nonzero(plan.rows.sample))


def _check_kv(done: Done, planned: PlannedStep) -> None:
    """Launches of the phase `kv` are copies and moves that the step asked for: what a launch adds
    to the cache, or any other part of it, is in the launch itself."""
    asked = sum(op.kind != "drop" for op in planned.step.ops)
    reported = sum(launch.plan < 0 for launch in done.launches)
    if reported > asked:
        raise ValueError(
            f"step {done.step}: {reported} kv launches reported for {asked} copies and moves"
        )


def _check_sampled(done: Done, n_rows: int) -> None:
    """Ids of all sampled rows come with the two largest logits of these, or not at all."""
    if done.sampled is None:
        return
    if done.sampled.size != n_rows:
        raise ValueError(f"step {done.step}: {done.sampled.size} ids for {n_rows} sampled rows")
    if done.top2 is None or done.top2.shape != (n_rows, 2):
        shape = "none" if done.top2 is None else f"an array {done.top2.shape}"
        raise ValueError(f"step {done.step}: top2 is {shape} where {(n_rows, 2)} is due")


def _sampled_of(rows: Rows, done: Done, at: slice, *, whole: bool) -> tuple[I32, F32]:
    """Ids (n,) and two largest logits (n, 2) of a launch's rows, -1 and NaN where none was sampled
    or seen. whole: every row is sampled, so that the backend's arrays are taken as they are."""
    if whole and done.sampled is not None and done.top2 is not None:
        return done.sampled[at], done.top2[at]
    sampled = np.full(rows.seq.size, -1, dtype=np.int32)
    best = np.full((rows.seq.size, 2), np.nan, dtype=np.float32)
    if done.sampled is not None and done.top2 is not None:
        sampled[rows.sample] = done.sampled[at]
        best[rows.sample] = done.top2[at]
    return sampled, best


def _table(name: str, records: list[tuple[Any, ...]]) -> Table:
    if not records:
        return empty_table(name)
    return {
        column: np.array(values).astype(dtype)
        for (column, dtype), values in zip(
            COLUMNS[name].items(), zip(*records, strict=True), strict=True
        )
    }
