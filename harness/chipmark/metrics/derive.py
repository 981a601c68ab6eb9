"""All numbers of a cell that need no price: `derive(raw)`.

Complete repeats combine as ratios of sums (`ratios.combine`), counts as sums, latencies over
their distinct work (`quantiles`). Everything here is computed again whenever a definition
changes; nothing is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chipmark.codes import NoteCode, NullReason
from chipmark.metrics import latency
from chipmark.metrics.attainment import attainment, slo_bound, slo_notes
from chipmark.metrics.details import details
from chipmark.metrics.energy_idle import idle_power
from chipmark.metrics.intervals import Interval, by_repeat
from chipmark.metrics.names import COUNTS, METRICS, OF_ROOFS, PROBED_ROOFS, RATIOS, SCHEMA
from chipmark.metrics.one_repeat import OneRepeat, one_repeat
from chipmark.metrics.quantiles import quantiles
from chipmark.metrics.ratios import Ratio, combine, null
from chipmark.metrics.rawcell import RawCell, RepeatData
from chipmark.metrics.remarks import Remark, RepeatSummary, remarks
from chipmark.metrics.repeats import lost_turns
from chipmark.metrics.times import clock_notes
from chipmark.metrics.waiting import nobody_waits_s

_OF_ALL_REPEATS = ("slo_attainment",)
"""Ratios that repeats which did not complete are in: their turns are the misses that it counts."""

_SHARES = ("slo_attainment", "prefix_hit", "prefix_hit_ideal")
_EXACT = ("prefix_hit_ideal",)


@dataclass(frozen=True, slots=True)
class Derived:
    """Metrics of a cell, by name of the table's column."""

    metrics: dict[str, float | int | None]
    per_repeat: tuple[dict[str, float | int | None], ...]
    """The same of each repeat, with its `window_s` and `complete` (1 or 0); all None but these two
    where it did not complete."""
    intervals: dict[str, Interval]
    """95 %, an end None where it is unbounded."""
    null_reasons: dict[str, NullReason]
    """Exactly one for every None in `metrics`."""
    notes: tuple[Remark, ...]
    details: dict[str, Any] = field(default_factory=dict)
    """What is in JSON with the columns (net energy, phase seconds, error bounds, joules by session,
    intervals over other work)."""
    schema: str = SCHEMA


def derive(raw: RawCell) -> Derived:
    """Compute every metric of a cell. ValueError where the event tables contradict themselves."""
    if not raw.repeats:
        return nothing(NullReason.CELL_FAILED)
    every = [one_repeat(raw, data) for data in raw.repeats]
    done = [repeat for repeat in every if repeat.complete]
    metrics: dict[str, float | int | None] = {}
    reasons: dict[str, NullReason] = {}
    intervals: dict[str, Interval] = {}
    notes: list[Remark] = []
    for name in RATIOS:
        ratio, interval, left_out = _combined(name, every, done)
        if name == "sessions_per_hour" and raw.facts.scenario == "capacity":
            used = [v for r in done if r.ratios[name].value is not None for v in r.views]
            interval = latency.with_spread(interval, used, raw.trace)
        metrics[name] = ratio.value
        if ratio.value is None:
            reasons[name] = ratio.null_reason
        if interval is not None:
            intervals[name] = interval
        if left_out:
            notes.append((NoteCode.REPEATS_LEFT_OUT, left_out))
    for name, found in quantiles([r.samples for r in done]).items():
        metrics[name] = found.value if done else None
        if not done:
            reasons[name] = NullReason.REPEAT_INCOMPLETE
        elif found.reason is not None:
            reasons[name] = found.reason
        elif found.interval is not None:
            intervals[name] = found.interval
    for name in COUNTS:
        metrics[name] = sum(r.counts[name] for r in done) if done else None
        if not done:
            reasons[name] = NullReason.REPEAT_INCOMPLETE
    for name, number in metrics.items():
        if number is not None and not np.isfinite(number):
            raise ValueError(f"{name} comes out as {number}: a done turn or launch has no time")
    per_repeat = tuple(repeat.values() for repeat in every)
    summaries = [
        _summary(raw, r, data, v) for r, data, v in zip(every, raw.repeats, per_repeat, strict=True)
    ]
    over = [
        (name, _shares(name, done))
        for name in OF_ROOFS
        if reasons.get(name) == NullReason.OVER_ROOF
    ]
    probed = [(name, _shares(name, done)) for name in PROBED_ROOFS]
    views = [joined for r in every for joined in r.own]
    notes += clock_notes(raw, views)
    notes += remarks(raw.facts, summaries, over, probed)
    if text := idle_power(raw.idle_before, raw.idle_after, raw.facts.meter).note:
        notes.append((NoteCode.IDLE_RANGE, text))
    claim = attainment(views, raw.facts.slo, raw.facts.scenario, raw.trace)
    if raw.facts.scenario == "capacity":
        notes += slo_notes(claim, raw.facts.slo.share)
    return Derived(
        metrics=metrics,
        per_repeat=per_repeat,
        intervals=intervals,
        null_reasons=reasons,
        notes=tuple(notes),
        details=details(raw, done) | {"slo_bound": slo_bound(claim)},
    )


def nothing(reason: NullReason) -> Derived:
    """The metrics of a cell that measured nothing: all None, for one reason."""
    return Derived(
        metrics=dict.fromkeys(METRICS),
        per_repeat=(),
        intervals={},
        null_reasons=dict.fromkeys(METRICS, reason),
        notes=(),
    )


def _combined(
    name: str, every: Sequence[OneRepeat], done: Sequence[OneRepeat]
) -> tuple[Ratio, Interval | None, str]:
    """A ratio over repeats, its interval, and the text on repeats without a value.

    A share of a roof is judged over the repeats together, because a probe scatters by some
    percent: above 1 it is null.
    """
    ratios = [r.ratios[name] for r in (every if name in _OF_ALL_REPEATS else done)]
    if not ratios:
        return null(NullReason.REPEAT_INCOMPLETE), None, ""
    ratio = combine(ratios, every=name == "joule_per_session")
    if ratio.value is None:
        return ratio, None, ""
    if name in OF_ROOFS and ratio.value > 1:
        return null(NullReason.OVER_ROOF), None, ""
    valid = [r.value for r in ratios if r.value is not None]
    left_out = ""
    if len(valid) < len(ratios):
        lost = next(r.null_reason for r in ratios if r.value is None)
        left_out = f"{name}: {len(ratios) - len(valid)} of {len(ratios)} repeats left out ({lost})"
    interval = by_repeat(ratio.value, valid, positive=name not in _SHARES)
    if interval is None or name in _EXACT:
        return ratio, None, left_out
    return ratio, _clipped(interval) if name in _SHARES else interval, left_out


def _shares(name: str, done: Sequence[OneRepeat]) -> list[float]:
    return [v for r in done if (v := r.ratios[name].value) is not None]


def _summary(
    raw: RawCell, repeat: OneRepeat, data: RepeatData, values: Mapping[str, float | int | None]
) -> RepeatSummary:
    return RepeatSummary(
        complete=repeat.complete,
        lost_turns=sum(lost_turns(joined, raw.facts.scenario) for joined in repeat.own),
        lost_sessions=sum(latency.unfinished_sessions(joined) for joined in repeat.own),
        window_s=repeat.window_s,
        nobody_waits_s=nobody_waits_s(*repeat.views, within=repeat.window),
        energy_refused=repeat.energy.reason,
        energy_unbounded=repeat.energy.error_reason,
        has_mbu=repeat.ratios["mbu"].value is not None,
        roofs=data.roofs,
        values=values,
    )


def _clipped(interval: Interval) -> Interval:
    low, high = interval
    return (None if low is None else max(low, 0.0), None if high is None else min(high, 1.0))
