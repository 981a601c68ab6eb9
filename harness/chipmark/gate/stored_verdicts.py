"""The gate on stored results: the verdicts' arithmetic, with the margin that sessions cost.

The two files of one `chipmark ab` are paired again (`gate.interleaved`). Other runs are of
different sessions: two runs of one build on different days differ by what the machine did that
day, so the interval of the samples (`gate.shift`) is widened by the margin that A/A across
sessions supports (`gate.bounds`), and no number of rounds makes that narrower. A second NEW run
confirms a regression, as in `chipmark ab`.

Every benchmark and metric that BASE has a value of gets a row: one that NEW has lost is MISSING.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean, median

from chipmark.errors import BadInputError, NothingToJudgeError, UsageError
from chipmark.gate.energy import meters_differ
from chipmark.gate.findings import GateFindings, GateRow
from chipmark.gate.machine_bounds import SessionMargin
from chipmark.gate.paired_files import are_interleaved, judge_interleaved
from chipmark.gate.stored_series import Key, NoValue, StoredRun, Value, differences
from chipmark.gate.thresholds import Thresholds
from chipmark.gate.unpaired_effect import SAMPLES, shift
from chipmark.gate.verdict import (
    Estimate,
    Judgement,
    Margins,
    Verdict,
    describe,
    exceeds,
    inconclusive,
    inside,
    missing,
    unfit,
)

TOGETHER_FROM = 5
"""Benchmarks from which "everything moved together" can be distinguished from one that moved."""


def judge_stored(
    base: Sequence[StoredRun],
    new: Sequence[StoredRun],
    thresholds: Thresholds,
    margin: SessionMargin,
) -> GateFindings:
    """Judge every benchmark and metric of BASE.

    Raises UsageError where machines differ or a run is compared with itself, BadInputError where
    units do, NothingToJudgeError where BASE has nothing, or the sides have no metric in common.
    """
    _check(base, new)
    rows = []
    for key in _keys_of(base):
        if all(key in run.values for run in (*base, *new)):
            rows.append(_row(key, base, new, thresholds, margin))
        elif (row := _row_without(key, base, new, thresholds)) is not None:
            rows.append(row)
    if not rows:
        raise NothingToJudgeError(
            f"{_paths(base)} has no benchmark and metric with a value to judge by",
            "; ".join(_reasons(base)),
        )
    moved = None if are_interleaved(base, new) else _moved_together(rows)
    if moved is not None:
        rows = [
            row
            if row.judgement.estimate is None
            else replace(
                row, judgement=unfit([moved], row.judgement.margins, row.judgement.estimate)
            )
            for row in rows
        ]
    return GateFindings(_paths(base), _paths(new), tuple(rows), _notes(base, new, margin))


def _keys_of(runs: Sequence[StoredRun]) -> Iterator[Key]:
    """Every benchmark and metric that the runs name, in their order, once."""
    yield from dict.fromkeys(key for run in runs for key in (*run.values, *run.no_values))


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
                "compare runs of one machine; ratios between machines are what `table` is for",
            )
    metrics = [{metric for _, metric in _keys_of(side)} for side in (base, new)]
    if all(metrics) and not metrics[0] & metrics[1]:
        raise NothingToJudgeError(
            f"{_paths(base)} and {_paths(new)} have no metric in common",
            "compare records with records, and pytest-benchmark's files with one another",
        )


def _row(
    key: Key,
    base: Sequence[StoredRun],
    new: Sequence[StoredRun],
    thresholds: Thresholds,
    margin: SessionMargin,
) -> GateRow:
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
        for text in (*run.unfit, *_faults(first, value))
    )
    systematic = meters_differ(before, after)
    if systematic is None:
        meters = " and ".join(sorted({value.meter for value in (*before, *after)}))
        faults[f"energy by {meters}, and the error bound of one of them is not known"] = None
    if faults:
        judgement = unfit(list(faults), margins)
    elif are_interleaved(base, new):
        widened = margins.widened(margin.within)
        judgement = judge_interleaved(key, base[0], new[0], widened, typical)
    else:
        judgement = _Judge(before, after, margins, margin, systematic or 0.0).judgement(typical)
    return GateRow(
        key[0], key[1], first.unit, first.direction, typical,
        median(v.value for v in after), judgement, thresholds.not_gated(*key),
    )  # fmt: skip


def _faults(first: Value, value: Value) -> list[str]:
    """Why a run of this benchmark may not be compared with the first baseline's."""
    return [*value.unfit, *(f"another {text}" for text in differences(first.work, value.work))]


def _row_without(
    key: Key, base: Sequence[StoredRun], new: Sequence[StoredRun], thresholds: Thresholds
) -> GateRow | None:
    """The row of what some run has no value of; None where BASE had none either:
    nothing was lost.

    Lost in NEW is MISSING; numbers that are there and cannot be used make the row unfit.
    """
    if any(key not in run.values and _lost(key, run) for run in base):
        return None
    before, after = (
        [run.values[key].value for run in side if key in run.values] for side in (base, new)
    )
    gone = [f"{run.path}: {_why(key, run)}" for run in new if _lost(key, run)]
    broken = [f"{run.path}: {_why(key, run)}" for run in (*base, *new) if key not in run.values]
    margins = thresholds.margins(*key)
    about = next(found for run in base if (found := _about(key, run)) is not None)
    return GateRow(
        key[0], key[1], about.unit, about.direction,
        median(before) if before else None, median(after) if after else None,
        missing(gone, margins) if gone else unfit(broken, margins),
        thresholds.not_gated(*key),
    )  # fmt: skip


def _about(key: Key, run: StoredRun) -> Value | NoValue | None:
    return run.values.get(key) or run.no_values.get(key)


def _lost(key: Key, run: StoredRun) -> bool:
    """Whether a run has not measured it: does not name it, or says that it failed."""
    found = _about(key, run)
    return found is None or (isinstance(found, NoValue) and found.lost)


def _why(key: Key, run: StoredRun) -> str:
    found = run.no_values.get(key)
    return found.reason if found is not None else "is not in this run"


@dataclass(frozen=True, slots=True)
class _Judge:
    """Both sides of a benchmark and metric. systematic: what the meters alone may differ by, ln."""

    before: Sequence[Value]
    after: Sequence[Value]
    margins: Margins
    margin: SessionMargin
    systematic: float

    def judgement(self, typical: float) -> Judgement:
        """The verdict; typical: the baseline's value in the metric's unit."""
        found, wide = self.estimate(self.after)
        if inside(found.low, found.high, self.margins.delta_eq):
            return Judgement(Verdict.EQUIVALENT, found, wide)
        first, wide_first = self.estimate(self.after[:1])
        for sign, verdict in ((1, Verdict.REGRESSED), (-1, Verdict.IMPROVED)):
            if not exceeds(first, wide_first, typical, sign):
                continue
            if len(self.after) == 1:
                word = "slower or larger" if sign > 0 else "better"
                reason = f"{word} beyond the margin, but not confirmed: measure NEW again in a "
                reason += "fresh session and give both runs"
                return inconclusive(first, wide_first, reason)
            again, wide_again = self.estimate(self.after[1:])
            if exceeds(again, wide_again, typical, sign):
                return Judgement(verdict, found, wide, confirmed=again)
            reason = f"another session did not confirm it: {describe(again)}"
            return replace(inconclusive(found, wide, reason), confirmed=again)
        return inconclusive(found, wide)

    def estimate(self, after: Sequence[Value]) -> tuple[Estimate, Margins]:
        """Mean shift between the runs, its interval, and margins with the red one widened.

        The half-width of the samples and that of the sessions are independent: they add in
        squares. What the meters differ by is the same in every sample: it adds as it is.
        """
        sign = 1.0 if self.before[0].direction == "lower" else -1.0
        logs = [
            [[sign * math.log(x) for x in v.samples] for v in side] for side in (self.before, after)
        ]
        found = [shift(a, b) for a, b in product(*logs)]
        effect = fmean(e.effect for e in found)
        runs = 1 / len(self.before) + 1 / len(after)
        sessions = self.margin.value * math.sqrt(runs / 2)
        down, up = (
            math.hypot(sessions, math.hypot(*widths) / len(found)) + self.systematic
            for widths in ([e.effect - e.low for e in found], [e.high - e.effect for e in found])
        )
        n = min(e.n for e in found)
        wide = self.margins.widened(sessions + self.systematic)
        return Estimate(effect, effect - down, effect + up, n, SAMPLES), wide


def _moved_together(rows: Sequence[GateRow]) -> str | None:
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
    base: Sequence[StoredRun], new: Sequence[StoredRun], margin: SessionMargin
) -> tuple[str, ...]:
    notes = [
        "paired by round: both sides are of one interleaved run"
        if are_interleaved(base, new)
        else "stored results of different sessions: below "
        f"{100 * math.expm1(margin.value):.0f} % two of them cannot be compared "
        f"({margin.source}); `chipmark ab` can tell 5 %"
    ]
    context = dict.fromkeys(
        text for run in (*base[1:], *new) for text in differences(base[0].context, run.context)
    )
    notes += [f"the context differs: {text}" for text in context]
    for name, metric in _keys_of(new):
        if all(_about((name, metric), run) is None for run in base):
            notes.append(f"not in BASE, so not judged: {name} ({metric})")
    notes += _reasons(base)
    notes += [note for run in new for note in run.notes]
    return tuple(dict.fromkeys(notes))


def _reasons(base: Sequence[StoredRun]) -> list[str]:
    """What BASE was not measured, and what it left out."""
    failed = [
        f"{run.path}: not measured in BASE, so not judged: {name} ({metric}): {found.reason}"
        for run in base
        for (name, metric), found in run.no_values.items()
        if found.lost
    ]
    return failed + [note for run in base for note in run.notes]


def _paths(runs: Sequence[StoredRun]) -> str:
    return ", ".join(str(run.path) for run in runs)
