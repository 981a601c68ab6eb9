"""A run of the engine over a simulated device, told again from the trace and constants alone.

Plain Python, written from the engine's declared rules and not from its code, so that a record
that agrees with it has engine, backend and events right:

- N clients each run one session after another. A turn is sent when its client is free, or when
  the tool of the turn before has taken its time; it is served oldest first.
- A step computes one token of every turn that decodes, then prompt tokens up to `max_chunk`, a
  launch a prompt; a prompt that is not the step's first starts no piece under 16 tokens unless
  it ends there. A first prompt waits for an older one of its group that is still computing the
  prefix that both share. Tokens are visible when the step ends.
- A launch takes `overhead + tokens x a(phase) + attended x b` seconds; position p attends to
  p + 1 tokens.
- A turn finds the context that its session has in KV (all but its last output token); a first
  prompt finds what the prefix rule gives: whole pages of n_cached (`share`), nothing (`none`), or
  n_cached by a copy (`copy`, one session at a time), which costs `copy_s` a token when the prefix
  is put aside.

Nothing is evicted, and sessions start in the order of the trace.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chipmark.backends.sim.spec import SimSpec
from chipmark.errors import UsageError
from chipmark.workload.session import Session, Turn
from chipmark.workload.trace import Trace

LEAST_PIECE = 16


@dataclass(slots=True)
class TurnRun:
    """A turn as it ran. Seconds from the first send; `seen_s` has one time an output token."""

    session: Session
    turn: Turn
    order: int
    sent_s: float
    client: int
    kv: int = 0
    found: int = -1
    seen_s: list[float] = field(default_factory=list)

    @property
    def cold(self) -> bool:
        """A session's first prompt, or one after its context was cut."""
        return self.turn.index == 0 or self.turn.reset

    @property
    def age(self) -> tuple[float, int]:
        """The turn that was to be sent first is the oldest."""
        return self.sent_s, self.order


@dataclass(frozen=True, slots=True)
class DeviceLaunch:
    """One launch: kind is `prefill`, `decode` or `kv`. rows: (session, tokens in KV before,
    tokens computed)."""

    kind: str
    start_s: float
    end_s: float
    rows: tuple[tuple[Session, int, int], ...]
    step: int


@dataclass(frozen=True, slots=True)
class WholeRun:
    """Every turn and launch of a run. window_s: from the first send to the last token."""

    turns: tuple[TurnRun, ...]
    launches: tuple[DeviceLaunch, ...]
    steps: int
    window_s: float


def stepped(trace: Trace, spec: SimSpec, *, clients: int, max_chunk: int) -> WholeRun:
    """The run of `trace` with `clients` sessions at once, all sessions once.

    Raises UsageError where these rules do not say what happens: an open loop, buckets, mixed
    launches, cut contexts, and above one client several steps in flight, several prompts a launch
    or copied prefixes.
    """
    _check(trace, spec, clients)
    return _Run(trace, spec, clients, max_chunk).run()


class _Run:
    def __init__(self, trace: Trace, spec: SimSpec, clients: int, max_chunk: int) -> None:
        self._spec, self._max_chunk = spec, max_chunk
        self._to_start = list(trace.sessions)
        self._free = [(0.0, client) for client in range(clients)]
        self._sleeping: list[TurnRun] = []
        self._waiting: list[TurnRun] = []
        self._decoding: list[TurnRun] = []
        self._turns: list[TurnRun] = []
        self._launches: list[DeviceLaunch] = []
        self._put_aside: tuple[int, int] | None = None
        self._copy: tuple[Session, int] | None = None
        self._steps = self._started = 0
        self._now = 0.0

    def run(self) -> WholeRun:
        while True:
            self._send()
            if self._waiting or self._decoding:
                self._step()
                continue
            times = [turn.sent_s for turn in self._sleeping]
            if not times:
                break
            self._now = min(times)
        last = max(turn.seen_s[-1] for turn in self._turns)
        return WholeRun(tuple(self._turns), tuple(self._launches), self._steps, last)

    def _send(self) -> None:
        while self._to_start and self._free:
            since, client = min(self._free)
            self._free.remove((since, client))
            session = self._to_start.pop(0)
            self._begin(TurnRun(session, session.turns[0], self._started, since, client))
            self._started += 1
        for turn in [t for t in self._sleeping if t.sent_s <= self._now]:
            self._sleeping.remove(turn)
            self._begin(turn)

    def _begin(self, turn: TurnRun) -> None:
        self._turns.append(turn)
        self._waiting.append(turn)

    def _step(self) -> None:
        self._steps += 1
        clock = self._now
        if self._copy is not None:
            session, length = self._copy
            clock = self._launch("kv", clock, length * self._spec.copy_s, [(session, 0, length)])
            self._copy = None
        decoding = list(self._decoding)
        if decoding:
            rows = [(turn.session, turn.kv, 1) for turn in decoding]
            clock = self._compute("decode", clock, rows)
        pieces = self._pieces()
        for turn, length in pieces:
            clock = self._compute("prefill", clock, [(turn.session, turn.kv, length)])
        self._now = clock
        for turn in decoding:
            turn.kv += 1
            self._token(turn)
        for turn, length in pieces:
            turn.kv += length
            if turn.kv == turn.turn.prompt_tokens:
                self._waiting.remove(turn)
                self._decoding.append(turn)
                self._keep_prefix(turn)
                self._token(turn)

    def _pieces(self) -> list[tuple[TurnRun, int]]:
        left, pieces = self._max_chunk, list[tuple[TurnRun, int]]()
        older: list[TurnRun] = []
        for turn in sorted(self._waiting, key=lambda t: t.age):
            if left == 0:
                break
            if self._waits_for_prefix(turn, older):
                continue
            older.append(turn)
            if turn.found < 0:
                turn.found = turn.kv = found_tokens(turn.session, turn.turn, self._spec)
            missing = turn.turn.prompt_tokens - turn.kv
            length = min(missing, left)
            if length < missing and length < LEAST_PIECE and pieces:
                break
            pieces.append((turn, length))
            left -= length
        return pieces

    def _waits_for_prefix(self, turn: TurnRun, older: list[TurnRun]) -> bool:
        if self._spec.prefix == "none" or turn.turn.index > 0 or turn.found >= 0:
            return False
        wants = min(turn.turn.n_cached, turn.turn.prompt_tokens - 1)
        same = [o for o in older if o.session.group == turn.session.group]
        return any(o.kv < min(wants, o.session.shared_prefix_tokens) for o in same)

    def _keep_prefix(self, turn: TurnRun) -> None:
        length = turn.session.shared_prefix_tokens
        prefix = (turn.session.group, length)
        if self._spec.prefix == "copy" and turn.cold and length and self._put_aside != prefix:
            self._put_aside = prefix
            self._copy = (turn.session, length)

    def _token(self, turn: TurnRun) -> None:
        turn.seen_s.append(self._now)
        if len(turn.seen_s) < turn.turn.n_out:
            return
        self._decoding.remove(turn)
        session, index = turn.session, turn.turn.index + 1
        if index == len(session.turns):
            self._free.append((self._now, turn.client))
            return
        sent = self._now + turn.turn.tool_time_s
        self._sleeping.append(TurnRun(session, session.turns[index], turn.order, sent, turn.client))

    def _compute(self, kind: str, clock: float, rows: list[tuple[Session, int, int]]) -> float:
        spec = self._spec
        tokens = sum(length for _, _, length in rows)
        attended = sum(p + 1 for _, start, length in rows for p in range(start, start + length))
        a = spec.decode_s if kind == "decode" else spec.prefill_s
        seconds = spec.overhead_s + tokens * a + attended * spec.context_s
        return self._launch(kind, clock, seconds, rows)

    def _launch(
        self, kind: str, clock: float, seconds: float, rows: list[tuple[Session, int, int]]
    ) -> float:
        self._launches.append(DeviceLaunch(kind, clock, clock + seconds, tuple(rows), self._steps))
        return clock + seconds


def found_tokens(session: Session, turn: Turn, spec: SimSpec) -> int:
    """Leading tokens of a turn's prompt that need not be computed."""
    most = turn.prompt_tokens - 1
    if turn.index == 0:
        if spec.prefix == "none":
            return 0
        ideal = min(turn.n_cached, most)
        return ideal - ideal % spec.page_tokens if spec.prefix == "share" else ideal
    before = session.turns[turn.index - 1]
    return min(before.context_tokens - 1, turn.kept_tokens, turn.n_cached, most)


def _check(trace: Trace, spec: SimSpec, clients: int) -> None:
    several = clients > 1
    reasons = {
        "an open loop": trace.loop == "open",
        "buckets": bool(spec.batch_buckets or spec.chunk_buckets or spec.context_step),
        "mixed launches": spec.mixed and several,
        "cut contexts": any(turn.reset for _, turn in trace.walk()),
        "several steps in flight and more than one session at once": spec.in_flight > 1 and several,
        "several prompts a launch and more than one session at once": spec.prefill_rows > 1
        and several,
        "copied prefixes and more than one session at once": spec.prefix == "copy"
        and several
        and any(session.shared_prefix_tokens for session in trace.sessions),
        "more sessions at once than rows of a launch": clients > spec.max_batch,
    }
    for reason, holds in reasons.items():
        if holds:
            raise UsageError(f"sim:{spec.name} has no closed form with {reason}")
