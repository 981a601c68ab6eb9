"""The one step loop that drives every backend.

    result = run(backend, trace, RunPlan(caps=loaded.caps, concurrency=4))

Up to `caps.in_flight` steps are submitted before the oldest is waited for; with forced feedback
the next step does not depend on what was sampled, so it can be planned while the last one runs.
Steps never change their order. The engine reads its own clock around every call of the backend:
what a backend says of time is checked against that and never used for it. Standard library and
NumPy only.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter

import numpy as np

from chipmark.engine.clock import MonotonicClock
from chipmark.engine.contract import I32, Backend, Clock, Done
from chipmark.engine.eventlog import DONE, DROPPED, FAILED, UNFINISHED, EventLog, StepTimes
from chipmark.engine.kvstore import context_limit, make_store
from chipmark.engine.lanes import (
    Entrant,
    Lanes,
    Send,
    check_closed_loop,
    chosen_sessions,
    endless_passes,
)
from chipmark.engine.live import LiveRows
from chipmark.engine.plan import CapturedLogits, Progress, RunPlan, RunResult
from chipmark.engine.scheduler import PlannedStep, Scheduler
from chipmark.engine.window import CapacityWindow, Found, WorkDone
from chipmark.errors import UsageError
from chipmark.workload.passes import stride
from chipmark.workload.trace import Trace

PROGRESS_S = 0.25
"""Real seconds between two calls of `on_progress`."""


def run(backend: Backend, trace: Trace, plan: RunPlan) -> RunResult:
    """Run the plan's sessions on a loaded backend.

    Turns whose context cannot fit end their session with status 1 (failed). Raises UsageError for
    a plan that cannot be run, ValueError where a backend's answer does not fit its step; what the
    backend raises goes through.
    """
    return _Run(backend, trace, plan).run()


class _Run:
    def __init__(self, backend: Backend, trace: Trace, plan: RunPlan) -> None:
        caps = plan.caps
        self._backend, self._plan = backend, plan
        self._clock: Clock = MonotonicClock() if plan.clock is None else plan.clock
        self._sessions = chosen_sessions(trace, plan.sessions)
        if not self._sessions:
            raise UsageError(f"trace {trace.name!r} has no session to run")
        self._capacity = plan.scenario == "capacity"
        if self._capacity:
            check_closed_loop(trace)
        self._limit = context_limit(caps)
        longest = max(t.context_tokens for s in self._sessions for t in s.turns)
        self._live = LiveRows(plan.concurrency, min(longest, self._limit + 1))
        self._kv = make_store(caps, self._live)
        wants_logits = plan.logits_of_all or plan.capture is not None
        self._scheduler = Scheduler(
            caps,
            self._live,
            self._kv,
            plan.budget,
            plan.prompt_budget,
            self._wanted if wants_logits else None,
        )
        self._forced = plan.feedback == "forced"
        self._in_flight = caps.in_flight if self._forced else 1
        self._log = EventLog(caps)
        self._submitted: deque[tuple[PlannedStep, float, float, float]] = deque()
        self._logits: list[CapturedLogits] = []
        self._produced: dict[tuple[int, int], I32] = {}
        self._running: set[int] = set()
        self._session_start = [0.0] * plan.concurrency
        self._session_first = [0] * plan.concurrency
        self._sessions_done = self._turns_done = 0
        self._last_token_s = self._start_s = self._clock.now()
        self._first_send_s: float | None = None
        self._lanes = Lanes(
            endless_passes(trace, self._sessions, plan.concurrency)
            if self._capacity
            else map(Entrant, self._sessions),
            plan.concurrency,
            start_s=self._start_s,
        )
        self._window = CapacityWindow(self._sessions, plan.concurrency)
        self._found: Found | None = None
        self._entering = set(range(plan.concurrency))
        self._second_pass = stride(trace)
        self._first_pass_left = len(self._sessions)
        self._ended = WorkDone(0, 0, 0.0)
        self._stopped_s: float | None = None
        self._left_s = self._start_s
        self._engine_s = 0.0
        self._mark = perf_counter()
        self._next_progress = self._mark + PROGRESS_S

    def run(self) -> RunResult:
        clock = self._clock
        deadline = self._plan.deadline_s
        ends = np.inf if deadline is None else self._start_s + deadline
        out_of_time = False
        while self._stopped_s is None and not out_of_time:
            now = clock.now()
            out_of_time = now >= ends
            if out_of_time:
                break
            sends = self._lanes.due(now)
            if self._capacity and self._is_enough(sends):
                break
            for send in sends:
                self._begin(send)
            if len(self._submitted) < self._in_flight and self._scheduler.busy:
                planned = self._scheduler.plan(now)
                if planned is not None:
                    self._submit(planned)
                    continue
                if not self._submitted:
                    raise RuntimeError("turns wait, nothing runs, and no step can be planned")
            if self._submitted:
                self._finish_oldest()
                continue
            due = self._lanes.next_s()
            if due is None:
                break
            self._pause()
            clock.sleep_until(min(due, ends))
            self._mark = perf_counter()
        while self._submitted:
            self._finish_oldest()
        self._backend.synchronize()
        self._left_s = clock.now()
        return self._result()

    def _is_enough(self, sends: list[Send]) -> bool:
        """Whether the window of the capacity scenario ends where one of the sends starts a
        session. Nothing is started there any more."""
        starts = [send.intended_s for send in sends if send.starts]
        if not starts or self._entering:
            return False
        new, out = self._live.work_done(self._running)
        before = self._ended
        for time_s in starts:
            tool_s = before.tool_s - self._lanes.tool_left_s(time_s)
            done = WorkDone(before.n_new + new, before.n_out + out, tool_s)
            found = self._window.started(time_s, done, alone=starts.count(time_s) == 1)
            longer = min(self._lanes.completed) < self._plan.sessions_per_lane
            if found is not None and not longer and not self._first_pass_left:
                self._found, self._stopped_s = found, found.end_s
                return True
        return False

    def _wanted(self, session: int, turn: int) -> bool:
        return self._plan.logits_of_all or self._plan.capture == (session, turn)

    def _begin(self, send: Send) -> None:
        lane, session, turn = send.lane, send.session, send.turn
        if self._first_send_s is None:
            self._first_send_s = send.intended_s
        if send.starts:
            self._live.place(lane, session, send.order, turn)
            self._session_first[lane] = turn.index
            self._session_start[lane] = send.intended_s
        if turn.prompt_tokens + turn.n_out - 1 > self._limit:
            self._log.turn_not_run(session, turn, lane, FAILED, send.intended_s)
            for later in session.turns[turn.index + 1 :]:
                self._log.turn_not_run(session, later, lane, DROPPED)
            now = max(send.intended_s, self._clock.now())
            self._end_session(lane, FAILED, now, turn.index)
            self._lanes.session_over(lane, now)
            if self._capacity:
                # No pass can be whole, and the same session would fail in each.
                self._stopped_s = now
            return
        self._scheduler.begin_turn(lane, turn, send.intended_s)
        self._running.add(lane)

    def _pause(self) -> None:
        """The engine's own time ends here; what follows is the backend's or is sleep."""
        self._engine_s += perf_counter() - self._mark

    def _submit(self, planned: PlannedStep) -> None:
        clock = self._clock
        self._pause()
        engine_s, self._engine_s = self._engine_s, 0.0
        submit_s = clock.now()
        self._backend.submit(planned.step)
        submitted_s = clock.now()
        self._mark = perf_counter()
        self._submitted.append((planned, engine_s, submit_s, submitted_s))

    def _finish_oldest(self) -> None:
        clock = self._clock
        self._pause()
        wait_s = clock.now()
        done = self._backend.wait()
        visible_s = clock.now()
        self._mark = perf_counter()
        planned, engine_s, submit_s, submitted_s = self._submitted.popleft()
        if done.step != planned.step.id:
            raise ValueError(f"step {done.step} was finished where {planned.step.id} was due")
        times = StepTimes(engine_s, submit_s, submitted_s, wait_s, visible_s)
        self._log.step(planned, done, times)
        if not self._forced:
            self._feed_back(planned, done)
        if planned.step.logits_of:
            self._take_logits(planned, done)
        live = self._live
        for row in planned.firsts:
            live.first_token_s[row] = visible_s
        for row in planned.lasts:
            self._end_turn(row, visible_s)
        self._last_token_s = visible_s
        if self._mark >= self._next_progress:
            self._report()

    def _end_turn(self, row: int, visible_s: float) -> None:
        live = self._live
        session, turn = live.live(row), live.turn_of(row)
        live.last_token_s[row] = visible_s
        self._log.turn(live, row, DONE)
        self._turns_done += 1
        before = self._ended
        last = turn.index + 1 == len(session.turns)
        self._ended = WorkDone(
            before.n_new + turn.n_new,
            before.n_out + turn.n_out,
            before.tool_s + (0.0 if last else turn.tool_time_s),
        )
        self._running.discard(row)
        self._entering.discard(row)
        self._scheduler.end_turn(row)
        if not self._forced:
            end = turn.prompt_tokens + turn.n_out
            self._produced[session.id, turn.index] = live.ids[row, turn.prompt_tokens : end].copy()
        if self._lanes.turn_done(row, session, turn, visible_s):
            self._sessions_done += 1
            self._first_pass_left -= session.id < self._second_pass
            self._end_session(row, DONE, visible_s, len(session.turns))

    def _end_session(self, row: int, status: int, time_s: float, n_turns: int) -> None:
        self._scheduler.end_session(row)
        self._log.session(
            self._live.live(row),
            row,
            status,
            self._session_start[row],
            time_s,
            n_turns - self._session_first[row],
        )
        self._live.clear(row)

    def _sampled(self, planned: PlannedStep) -> tuple[I32, I32]:
        """Live row, and position of its last token, of every sampled row of a step."""
        rows, last = [], []
        for launch, which in zip(planned.step.launches, planned.rows, strict=True):
            sample = launch.rows.sample
            rows.append(which[sample])
            last.append((launch.rows.start + launch.rows.length - 1)[sample])
        return np.concatenate(rows), np.concatenate(last)

    def _feed_back(self, planned: PlannedStep, done: Done) -> None:
        rows, last = self._sampled(planned)
        if done.sampled is None or done.sampled.size != rows.size:
            raise ValueError(
                f"step {done.step}: feedback sampled needs the ids of {rows.size} sampled rows"
            )
        self._live.ids[rows, last + 1] = done.sampled

    def _take_logits(self, planned: PlannedStep, done: Done) -> None:
        rows, last = self._sampled(planned)
        live = self._live
        wanted = set(planned.step.logits_of)
        for row, position in zip(rows.tolist(), last.tolist(), strict=True):
            session = int(live.session[row])
            if session not in wanted:
                continue
            if done.logits is None or session not in done.logits:
                raise ValueError(f"step {done.step}: no logits of session {session}")
            self._logits.append(
                CapturedLogits(session, int(live.turn[row]), position, done.logits[session])
            )

    def _report(self) -> None:
        self._next_progress = self._mark + PROGRESS_S
        if self._plan.on_progress is not None:
            elapsed = self._clock.now() - self._start_s
            self._plan.on_progress(
                Progress(self._sessions_done, len(self._sessions), self._turns_done, elapsed)
            )

    def _result(self) -> RunResult:
        complete = self._close()
        if self._plan.on_progress is not None:
            self._report()
        first_s = self._start_s if self._first_send_s is None else self._first_send_s
        if self._found is not None:
            first_s = self._found.start_s
        elif self._window.begins_s is not None:
            first_s = self._window.begins_s
        end_s = self._last_token_s if self._stopped_s is None else self._stopped_s
        simulated = int(self._plan.clock is not None)
        window = (first_s, end_s, self._plan.concurrency, self._start_s, self._left_s, simulated)
        return RunResult(
            tables=self._log.tables(window),
            logits=tuple(self._logits),
            produced=self._produced,
            complete=complete,
        )

    def _close(self) -> bool:
        """Write down what was not finished. True where nothing was left, or where the capacity
        scenario has found its window."""
        live, log = self._live, self._log
        waiting = {send.lane: send for send in self._lanes.waiting_turns()}
        for row in range(live.n_rows):
            session = live.sessions[row]
            if session is None:
                continue
            current = int(live.turn[row])
            if row in self._running:
                log.turn(live, row, UNFINISHED)
                done = current
            else:
                done = current + 1
                if not self._capacity:
                    current = current + 1
                    log.turn_not_run(
                        session, session.turns[current], row, UNFINISHED, waiting[row].intended_s
                    )
            if not self._capacity:
                for turn in session.turns[current + 1 :]:
                    log.turn_not_run(session, turn, row, UNFINISHED)
            start = self._session_start[row]
            log.session(session, row, UNFINISHED, start, np.nan, done - self._session_first[row])
        if self._capacity:
            return self._found is not None
        left = self._lanes.not_started()
        for session in left:
            for turn in session.turns:
                log.turn_not_run(session, turn, -1, UNFINISHED)
            log.session(session, -1, UNFINISHED, np.nan, np.nan, 0)
        return not (left or any(session is not None for session in live.sessions))
