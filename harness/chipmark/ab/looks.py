"""The series of an A/B run: looks, which benchmarks continue, and the confirming session."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from chipmark.ab.canary import LIMIT, CanaryReport, judge_canary
from chipmark.ab.machine import card_faults
from chipmark.ab.schedule import slots
from chipmark.ab.series import Key, Series, gaps, readings_of, series_of
from chipmark.ab.session import Measured, Runner
from chipmark.cell.runner import Reporter
from chipmark.errors import NothingToJudgeError
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
    missing,
    unfit,
)


@dataclass
class Outcome:
    """What a run came to. judgements by benchmark and metric; measured: every slot, in order;
    canaries: readings without a pause between them, a list a session and attempt; left_out:
    benchmarks that only arm B has, or that arm A failed too; faults: why the machine was unfit."""

    judgements: dict[Key, Judgement] = field(default_factory=dict)
    measured: list[Measured] = field(default_factory=list)
    canaries: list[list[float]] = field(default_factory=list)
    canary: CanaryReport | None = None
    left_out: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    def series(self, session: int) -> dict[Key, Series]:
        """Complete rounds of a session as series."""
        return series_of(self.of(session))

    def of(self, session: int) -> list[Measured]:
        """The slots of a session."""
        return [m for m in self.measured if m.slot.session == session]


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

    margins_of: by benchmark and metric, asked after the warm-up. A benchmark that arm B has lost
    in a round is missing. Raises NothingToJudgeError where arm A gave no value.
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
        new = [m for m in outcome.of(0) if m.slot.round >= done]
        done = rounds
        _close_gaps(outcome, new, to_confirm, margins_of, reporter)
        for key, series in outcome.series(0).items():
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
        outcome.left_out = _left_out(outcome)
        if not outcome.judgements and not to_confirm and not outcome.series(0):
            raise NothingToJudgeError("arm A gave no value", "; ".join(outcome.left_out))
        if _decided(outcome, to_confirm) >= readings_of(outcome.measured, "A").keys():
            break
    outcome.canaries[-1].append(runner.canary())
    if to_confirm and not _faults(outcome, canary_limit):
        reporter.steps(looks[-1] * 2)
        reporter.stage("a second session of fresh processes confirms: warming both arms")
        runner.warm(1)
        _run_rounds(runner, outcome, 1, 0, looks[-1], seed, set(outcome.judgements), reporter)
        outcome.canaries[-1].append(runner.canary())
        first, second = outcome.series(0), outcome.series(1)
        _close_gaps(outcome, outcome.of(1), set(), margins_of, reporter)
        for key in sorted(to_confirm - outcome.judgements.keys()):
            scale = median(first[key].a)
            outcome.judgements[key] = confirm(first[key].d, second[key].d, margins_of(key), scale)
    outcome.canary = _canary_report(outcome, canary_limit)
    outcome.faults = _faults(outcome, canary_limit)
    if outcome.faults:
        found = outcome.series(0)
        outcome.judgements |= {
            key: unfit(outcome.faults, margins_of(key), series.d)
            for key, series in found.items()
            if key not in outcome.judgements or outcome.judgements[key].estimate is not None
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
        place = (session, measured.attempt)
        if last is None or (last.slot.session, last.attempt) != place:
            outcome.canaries.append([])
        outcome.measured.append(measured)
        outcome.canaries[-1].append(measured.canary_s)
        reporter.step()


def _decided(outcome: Outcome, to_confirm: set[Key]) -> set[Key]:
    # A candidate has had its look; more rounds of the first session add nothing.
    return set(outcome.judgements) | to_confirm


def _close_gaps(
    outcome: Outcome,
    rounds: Sequence[Measured],
    to_confirm: set[Key],
    margins_of: Callable[[Key], Margins],
    reporter: Reporter,
) -> None:
    """End what an arm has lost: missing where arm B did, unfit otherwise. It costs itself alone."""
    closed = _decided(outcome, to_confirm)
    for key, gap in gaps(outcome.measured, rounds, closed).items():
        judge = missing if gap.missing else unfit
        outcome.judgements[key] = judge([gap.reason], margins_of(key))
        reporter.say(f"{title(key)}: {outcome.judgements[key].verdict.value}: {gap.reason}")


def _left_out(outcome: Outcome) -> tuple[str, ...]:
    ours, theirs = (readings_of(outcome.measured, arm) for arm in ("A", "B"))
    notes = {title(key): "only in arm B" for key in theirs if key not in ours}
    names = {name for name, _ in (*ours, *theirs)}
    for m in outcome.measured:
        for lost in m.lost:
            if lost.benchmark not in names:
                notes.setdefault(lost.benchmark, f"not measured in arm {m.slot.arm}: {lost.reason}")
    return tuple(f"{name}: {note}" for name, note in sorted(notes.items()))


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
