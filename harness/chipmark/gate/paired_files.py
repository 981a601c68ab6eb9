"""The two files of one `chipmark ab`, paired again round by round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from chipmark.gate.stored_series import Key, StoredRun, Value
from chipmark.gate.verdict import (
    Judgement,
    Margins,
    Next,
    confirm,
    estimate,
    inconclusive,
    look,
    missing,
    unfit,
)


def are_interleaved(base: Sequence[StoredRun], new: Sequence[StoredRun]) -> bool:
    """Whether the sides are the arms A and B of one run of `ab`."""
    if len(base) != 1 or len(new) != 1:
        return False
    before, after = base[0].interleaved, new[0].interleaved
    return before is not None and after is not None and before[0] == after[0]


def judge_interleaved(
    key: Key, base: StoredRun, new: StoredRun, margins: Margins, typical: float
) -> Judgement:
    """The verdict of a benchmark and metric by its pairs; the second session confirms.

    A round that arm B has lost makes it missing, one that arm A lacks makes it unfit.
    """
    before, after = base.values[key], new.values[key]
    for judge, run, lost in (
        (missing, new, set(before.rounds) - set(after.rounds)),
        (unfit, base, set(after.rounds) - set(before.rounds)),
    ):
        if lost:
            where = "session {}, round {}".format(*(number + 1 for number in min(lost)))
            return judge([f"{run.path}: has no sample of {where}, the other arm has"], margins)
    if not before.rounds:
        return unfit([f"{base.path}: its samples are of no round"], margins)
    sessions = sorted({session for session, _ in before.rounds})
    first, *rest = (_differences(before, after, session) for session in sessions)
    step = look(first, margins, typical)
    if step.next is not Next.CONFIRM:
        return step.judgement
    if rest:
        return confirm(first, rest[0], margins, typical)
    reason = "beyond the margin, but no second session confirmed it: run `chipmark ab` to its end"
    return inconclusive(estimate(first), margins, reason)


def _differences(before: Value, after: Value, session: int) -> list[float]:
    """ln(B / A) of a session's rounds in order, above 0 is worse; medians of a round's samples."""
    sign = 1.0 if before.direction == "lower" else -1.0
    sides = []
    for value in (before, after):
        rounds: dict[int, list[float]] = {}
        for (of, number), sample in zip(value.rounds, value.samples, strict=True):
            if of == session:
                rounds.setdefault(number, []).append(sample)
        sides.append(rounds)
    return [sign * math.log(median(sides[1][n]) / median(sides[0][n])) for n in sorted(sides[0])]
