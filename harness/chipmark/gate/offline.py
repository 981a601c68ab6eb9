"""The gate on stored results: the verdicts' arithmetic, with the margin that sessions cost.

The two files of one `chipmark ab` are paired again (`gate.interleaved`). Other runs are of
different sessions: two runs of one build on different days differ by what the machine did that
day, so the interval of the samples (`gate.shift`) is widened by the margin that A/A across
sessions supports (`gate.bounds`), and no number of rounds makes that narrower. A second NEW run
confirms a regression, as in `chipmark ab`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from statistics import fmean, median

from chipmark.errors import BadInputError, NothingToJudgeError, UsageError
from chipmark.gate.bounds import SessionMargin
from chipmark.gate.findings import Findings, Row
from chipmark.gate.interleaved import are_interleaved, judge_interleaved
from chipmark.gate.shift import SAMPLES, shift
from chipmark.gate.stored import Key, StoredRun, Value, differences
from chipmark.gate.thresholds import Thresholds
from chipmark.gate.verdict import (
    Estimate,
    Judgement,
    Margins,
    Verdict,
    describe,
    exceeds,
    inside,
    smallest_seen,
    unfit,
)

TOGETHER_FROM = 5
"""Benchmarks from which "everything moved together" can be told from one that moved."""


def judge_stored(
    base: Sequence[StoredRun],
    new: Sequence[StoredRun],
    thresholds: Thresholds,
    margin: SessionMargin,
) -> Findings:
    """Judge every benchmark and metric that both sides have.

    Raises UsageError where machines differ or a run is compared with itself, BadInputError where
    units do, NothingToJudgeError where the sides have nothing in common.
    """
    _check(base, new)
    common = [key for key in base[0].values if all(key in run.values for run in (*base, *new))]
    if not common:
        raise NothingToJudgeError(
            f"{_paths(base)} and {_paths(new)} have no benchmark and metric in common"
        )
    rows = [_row(key, base, new, thresholds, margin) for key in common]
    moved = None if are_interleaved(base, new) else _moved_together(rows)
    if moved is not None:
        rows = [
            replace(row, judgement=unfit([moved], row.judgement.margins, row.judgement.estimate))
            for row in rows
        ]
    return Findings(_paths(base), _paths(new), tuple(rows), _notes(base, new, common, margin))


def _check(base: Sequence[StoredRun], new: Sequence[StoredRun]) -> None:
    seen: dict[str, StoredRun] = {}
    for run in (*base, *new):
        if run.fingerprint in seen:
            raise UsageError(
                f"{seen[run.fingerprint].path} and {run.path} are the same run",
                "a run compared with itself says nothing; measure again",
            )
        seen[run.fingerprint] = run
    for run in (*base[1:], *new):
        found = list(differences(base[0].identity, run.identity))
        if found:
            raise UsageError(
                f"{base[0].path} and {run.path} are from different machines: {'; '.join(found)}",
                "a gate compares one machine with itself; chips are compared by `chipmark table`",
            )


def _row(
    key: Key,
    base: Sequence[StoredRun],
    new: Sequence[StoredRun],
    thresholds: Thresholds,
    margin: SessionMargin,
) -> Row:
    before, after = ([run.values[key] for run in runs] for runs in (base, new))
    first = before[0]
    for run, value in zip((*base, *new), (*before, *after), strict=True):
        if (value.unit, value.direction) != (first.unit, first.direction):
            raise BadInputError(run.path, f"is in {value.unit!r}", field=f"{key[0]} {key[1]}")
    margins = thresholds.margins(*key)
    typical = median(v.value for v in before)
    faults = dict.fromkeys(
        f"{run.path}: {text}"
        for run, value in zip((*base, *new), (*before, *after), strict=True)
        for text in _faults(first, value)
    )
    if faults:
        judgement = unfit(list(faults), margins)
    elif are_interleaved(base, new):
        widened = margins.widened(margin.within)
        judgement = judge_interleaved(key, base[0], new[0], widened, typical)
    else:
        judgement = _judge(before, after, margins, typical, margin)
    return Row(
        key[0], key[1], first.unit, first.direction, typical,
        median(v.value for v in after), judgement, thresholds.not_gated(*key),
    )  # fmt: skip


def _faults(first: Value, value: Value) -> list[str]:
    """Why a run of this benchmark may not be compared with the first baseline's."""
    return [*value.unfit, *(f"another {text}" for text in differences(first.work, value.work))]


def _judge(
    before: Sequence[Value],
    after: Sequence[Value],
    margins: Margins,
    typical: float,
    margin: SessionMargin,
) -> Judgement:
    found, wide = _estimate(before, after, margins, margin)
    if inside(found.low, found.high, margins.delta_eq):
        return Judgement(Verdict.EQUIVALENT, found, wide)
    first, wide_first = _estimate(before, after[:1], margins, margin)
    for sign, verdict in ((1, Verdict.REGRESSED), (-1, Verdict.IMPROVED)):
        if not exceeds(first, wide_first, typical, sign):
            continue
        if len(after) == 1:
            word = "slower or larger" if sign > 0 else "better"
            reason = f"{word} beyond the margin, but not confirmed: measure NEW again in a fresh "
            return Judgement(
                Verdict.INCONCLUSIVE, first, wide_first,
                reasons=(reason + "session and give both runs",),
            )  # fmt: skip
        again, wide_again = _estimate(before, after[1:], margins, margin)
        if exceeds(again, wide_again, typical, sign):
            return Judgement(verdict, found, wide, confirmed=again)
        reason = f"another session did not confirm it: {describe(again)}"
        return Judgement(Verdict.INCONCLUSIVE, found, wide, confirmed=again, reasons=(reason,))
    seen = smallest_seen(found, wide)
    if math.isinf(seen):
        reason = f"too few samples for an interval: {found.n}; 4 on each side are the least"
        return Judgement(Verdict.INCONCLUSIVE, found, wide, seen, reasons=(reason,))
    reason = f"an effect of {100 * math.expm1(seen):.0f} % or more would have been seen"
    return Judgement(Verdict.INCONCLUSIVE, found, wide, seen, reasons=(reason,))


def _estimate(
    before: Sequence[Value], after: Sequence[Value], margins: Margins, margin: SessionMargin
) -> tuple[Estimate, Margins]:
    """Mean shift between the runs, its interval, and margins with the red one widened.

    The half-width of the samples and that of the sessions are independent: they add in squares.
    """
    sign = 1.0 if before[0].direction == "lower" else -1.0
    logs = [[[sign * math.log(x) for x in v.samples] for v in side] for side in (before, after)]
    found = [shift(a, b) for a, b in product(*logs)]
    effect = fmean(e.effect for e in found)
    sessions = margin.value * math.sqrt((1 / len(before) + 1 / len(after)) / 2)
    down, up = (
        math.hypot(sessions, math.hypot(*widths) / len(found))
        for widths in ([e.effect - e.low for e in found], [e.high - e.effect for e in found])
    )
    n = min(e.n for e in found)
    return Estimate(effect, effect - down, effect + up, n, SAMPLES), margins.widened(sessions)


def _moved_together(rows: Sequence[Row]) -> str | None:
    """Why no single benchmark may be blamed; None where there are few, or they did not move."""
    effects = [r.judgement.estimate.effect for r in rows if r.judgement.estimate is not None]
    if len(effects) < TOGETHER_FROM:
        return None
    shift = median(effects)
    if abs(shift) <= min(row.judgement.margins.delta_red for row in rows):
        return None
    return (
        f"everything moved together, by {100 * math.expm1(shift):+.1f} % in the median: that is "
        "the machine, or a change to all; `chipmark ab` tells which"
    )


def _notes(
    base: Sequence[StoredRun],
    new: Sequence[StoredRun],
    common: Sequence[Key],
    margin: SessionMargin,
) -> tuple[str, ...]:
    notes = [
        "paired by round: both sides are of one interleaved run"
        if are_interleaved(base, new)
        else "stored results of different sessions: below "
        f"{100 * math.expm1(margin.value):.0f} % nothing can be told of two of them "
        f"({margin.source}); `chipmark ab` can tell 5 %"
    ]
    context = dict.fromkeys(
        text for run in (*base[1:], *new) for text in differences(base[0].context, run.context)
    )
    notes += [f"the context differs: {text}" for text in context]
    every = dict.fromkeys(key for run in (*base, *new) for key in run.values)
    notes += [f"not in all runs: {name} ({metric})" for name, metric in every.keys() - common]
    notes += [note for run in (*base, *new) for note in run.notes]
    return tuple(notes)


def _paths(runs: Sequence[StoredRun]) -> str:
    return ", ".join(str(run.path) for run in runs)
