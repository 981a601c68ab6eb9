"""The series of an A/B run: looks, what goes on, and the second session that confirms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from chipmark.ab.canary import LIMIT, CanaryReport, judge_canary
from chipmark.ab.machine import card_faults
from chipmark.ab.readings import Direction
from chipmark.ab.rounds import Measured, Runner
from chipmark.ab.schedule import slots
from chipmark.cell.runner import Reporter
from chipmark.errors import NothingToJudgeError, UsageError
from chipmark.gate.verdict import (
    DELTA_EQ,
    LOOKS,
    Judgement,
    Margins,
    Next,
    Verdict,
    confirm,
    describe,
    estimate,
    look,
    unfit,
)

Key = tuple[str, str]
"""Benchmark and metric."""


@dataclass(frozen=True, slots=True)
class Series:
    """Values of both arms of one benchmark and metric in one session, by round, in `unit`."""

    key: Key
    unit: str
    direction: Direction
    a: tuple[float, ...]
    b: tuple[float, ...]

    @property
    def d(self) -> list[float]:
        """ln(B / A) of each round, turned so that above 0 is worse."""
        sign = 1.0 if self.direction == "lower" else -1.0
        return [sign * math.log(b / a) for a, b in zip(self.a, self.b, strict=True)]


@dataclass
class Outcome:
    """What a run came to. judgements by benchmark and metric; measured: every slot, in order;
    canaries: readings without a pause between them, a list a session and sitting; left_out:
    benchmarks that only one arm has."""

    judgements: dict[Key, Judgement] = field(default_factory=dict)
    measured: list[Measured] = field(default_factory=list)
    canaries: list[list[float]] = field(default_factory=list)
    canary: CanaryReport | None = None
    left_out: tuple[str, ...] = ()

    def series(self, session: int) -> dict[Key, Series]:
        """Complete rounds of a session as series."""
        return series_of([m for m in self.measured if m.slot.session == session])


def series_of(measured: Sequence[Measured]) -> dict[Key, Series]:
    """Series of the benchmarks that both arms have, of the rounds that both arms ran.

    Raises UsageError where a benchmark is missing in one arm of a round that the other has.
    """
    values: dict[Key, dict[str, dict[int, float]]] = {}
    about: dict[Key, tuple[str, Direction]] = {}
    for m in measured:
        for reading in m.readings:
            by_arm = values.setdefault(reading.key, {"A": {}, "B": {}})
            by_arm[m.slot.arm][m.slot.round] = reading.value
            about[reading.key] = (reading.unit, reading.direction)
    found = {}
    for key, arms in values.items():
        if not arms["A"] or not arms["B"]:
            continue
        odd = sorted(arms["A"].keys() ^ arms["B"].keys())
        if odd:
            arm = "B" if odd[0] in arms["A"] else "A"
            raise UsageError(f"{key[0]} gave no {key[1]} in round {odd[0] + 1} of arm {arm}")
        rounds = sorted(arms["A"])
        a, b = (tuple(arms[arm][r] for r in rounds) for arm in ("A", "B"))
        found[key] = Series(key, *about[key], a, b)
    return found


def run_sequence(
    runner: Runner,
    margins_of: Callable[[Key], Margins],
    seed: int,
    reporter: Reporter,
    *,
    looks: Sequence[int] = LOOKS,
    canary_limit: float = LIMIT,
) -> Outcome:
    """Rounds until every benchmark is decided, then a second session for those to confirm.

    margins_of: by benchmark and metric, asked after the warm-up. Raises NothingToJudgeError
    where the arms have no benchmark in common.
    """
    outcome = Outcome()
    reporter.steps(looks[-1] * 2 + 2)
    reporter.stage("warming both arms")
    runner.warm(0)
    reporter.step()
    to_confirm: set[Key] = set()
    done = 0
    for rounds in looks:
        _run_rounds(runner, outcome, 0, done, rounds, seed, _decided(outcome, to_confirm), reporter)
        done = rounds
        found = outcome.series(0)
        if not found:
            raise NothingToJudgeError("the arms have no benchmark in common")
        outcome.left_out = _left_out(outcome, found)
        for key, series in found.items():
            if key in outcome.judgements or key in to_confirm:
                continue
            step = look(series.d, margins_of(key), median(series.a))
            if step.next is Next.CONFIRM:
                to_confirm.add(key)
            elif rounds == looks[-1] or step.judgement.verdict is Verdict.EQUIVALENT:
                # The rule ends at 16 rounds; a user who asked for more gets them.
                outcome.judgements[key] = step.judgement
            assert step.judgement.estimate is not None
            reporter.say(f"{rounds} rounds: {title(key)}: {_state(step.next, step.judgement)}")
        if len(outcome.judgements) + len(to_confirm) == len(found):
            break
    outcome.canaries[-1].append(runner.canary())
    if to_confirm and not _faults(outcome, canary_limit):
        reporter.steps(looks[-1] * 2)
        reporter.stage("a second session of fresh processes confirms: warming both arms")
        runner.warm(1)
        _run_rounds(runner, outcome, 1, 0, looks[-1], seed, set(outcome.judgements), reporter)
        outcome.canaries[-1].append(runner.canary())
        first, second = outcome.series(0), outcome.series(1)
        for key in sorted(to_confirm):
            if key not in second:
                raise UsageError(f"{title(key)} is missing in the second session")
            scale = median(first[key].a)
            outcome.judgements[key] = confirm(first[key].d, second[key].d, margins_of(key), scale)
    outcome.canary = _canary_report(outcome, canary_limit)
    faults = _faults(outcome, canary_limit)
    if faults:
        found = outcome.series(0)
        outcome.judgements = {
            key: unfit(faults, margins_of(key), series.d) for key, series in found.items()
        }
    return outcome


def title(key: Key) -> str:
    """A benchmark and metric for people."""
    return f"{key[0]} ({key[1]})"


def _run_rounds(
    runner: Runner,
    outcome: Outcome,
    session: int,
    start: int,
    end: int,
    seed: int,
    decided: set[Key],
    reporter: Reporter,
) -> None:
    keys = {r.key for m in outcome.measured for r in m.readings}
    # A benchmark with several metrics is needed as long as one of them is open.
    open_names = {name for name, metric in keys if (name, metric) not in decided}
    names = sorted({name for name, _ in decided} - open_names)
    for slot in slots(end, seed, session):
        if slot.round < start:
            continue
        reporter.stage(f"session {session + 1}, round {slot.round + 1} of {end}: arm {slot.arm}")
        measured = runner.run(slot, names)
        last = outcome.measured[-1] if outcome.measured else None
        place = (session, measured.sitting)
        if last is None or (last.slot.session, last.sitting) != place:
            outcome.canaries.append([])
        outcome.measured.append(measured)
        outcome.canaries[-1].append(measured.canary_s)
        reporter.step()


def _decided(outcome: Outcome, to_confirm: set[Key]) -> set[Key]:
    # A candidate has had its look; more rounds of the first session add nothing.
    return set(outcome.judgements) | to_confirm


def _left_out(outcome: Outcome, found: Mapping[Key, Series]) -> tuple[str, ...]:
    arms: dict[str, set[str]] = {}
    for m in outcome.measured:
        for reading in m.readings:
            if reading.key not in found:
                arms.setdefault(title(reading.key), set()).add(m.slot.arm)
    return tuple(f"{name}: only in arm {', '.join(sorted(a))}" for name, a in sorted(arms.items()))


def _canary_report(outcome: Outcome, limit: float) -> CanaryReport:
    pairs: list[float] = []
    sessions = sorted({m.slot.session for m in outcome.measured})
    for session in sessions:
        readings: dict[int, dict[str, float]] = {}
        for m in outcome.measured:
            if m.slot.session == session:
                readings.setdefault(m.slot.round, {})[m.slot.arm] = m.canary_s
        pairs += [math.log(r["B"] / r["A"]) for r in readings.values() if len(r) == 2]
    effect = None
    if len(pairs) >= LOOKS[0]:
        found = estimate(pairs)
        effect = (found.effect, found.low, found.high)
    return judge_canary(outcome.canaries, effect, DELTA_EQ, limit)


def _faults(outcome: Outcome, limit: float) -> tuple[str, ...]:
    found = dict.fromkeys(_canary_report(outcome, limit).faults)
    for m in outcome.measured:
        found |= dict.fromkeys(card_faults(m.before))
    return tuple(found)


def _state(next_: Next, judgement: Judgement) -> str:
    assert judgement.estimate is not None
    words = {
        Next.DONE: judgement.verdict.value,
        Next.MORE: "undecided",
        Next.CONFIRM: "to be confirmed",
    }
    return f"{words[next_]}, {describe(judgement.estimate)}"
