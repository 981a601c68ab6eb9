"""How much better a row is than its baseline, with an interval: turn by turn, or by repeats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from chipmark.errors import BadInputError
from chipmark.table.columns import COLUMNS
from chipmark.table.ranking import known_interval, turned
from chipmark.table.sheet import Bounds, Sheet
from chipmark.table.subject import OF_EVENTS, Subject

if TYPE_CHECKING:
    from chipmark.metrics.paired import PairedRatio
    from chipmark.metrics.samples import Kind, Samples

BY_TURN: Mapping[str, Kind] = {
    "ttft_p50_s": "ttft_append",
    "ttft_cold_p50_s": "ttft_cold",
    "tpot_p50_s": "tpot",
}
"""Columns of the typical turn: both rows ran the same turns, so they are compared one by one. A
tail (p95) is not a ratio of turns, and is compared by itself."""


class Versus:
    """Ratios of rows to their baselines. The turns of a record are read once, and only where two
    records are compared turn by turn."""

    def __init__(self) -> None:
        self._turns: dict[str, Mapping[Kind, Samples] | None] = {}

    def ratio(self, own: Sheet, base: Sheet, metric: str) -> tuple[float, Bounds | None] | None:
        """(ratio, 95 % interval), over 1 where `own` is better; no interval for a row against
        itself or where there is none. None where a value is not positive. Both have the metric."""
        ratio = turned(own.values[metric], base.values[metric], metric)
        if ratio is None:
            return None
        if own is base:
            return ratio, None
        found = self._by_turn(own.subject, base.subject, metric) or _by_repeats(
            ratio, own.subject, base.subject, metric
        )
        if found is not None:
            return found.ratio, found.interval
        return ratio, _of_intervals(ratio, own, base, metric)

    def _by_turn(self, row: Subject, base: Subject, metric: str) -> PairedRatio | None:
        from chipmark.metrics.paired import paired_latencies

        kind = BY_TURN.get(metric)
        if kind is None:
            return None
        mine, its = self._turns_of(row), self._turns_of(base)
        if mine is None or its is None:
            return None
        return paired_latencies(mine[kind], its[kind])

    def _turns_of(self, subject: Subject) -> Mapping[Kind, Samples] | None:
        """None where the raw files are not there or not whole, which `validate` tells."""
        from chipmark.results.turns import turn_medians

        if subject.id not in self._turns:
            complete = [bool(values.get("complete", 1)) for values in subject.repeats]
            try:
                found = turn_medians(subject.path, complete, subject.scenario)
            except BadInputError:
                found = None
            self._turns[subject.id] = found
        return self._turns[subject.id]


def _by_repeats(ratio: float, row: Subject, base: Subject, metric: str) -> PairedRatio | None:
    from chipmark.metrics.paired import ratio_by_repeats

    if metric not in OF_EVENTS:
        return None
    assert COLUMNS[metric].direction == "higher"
    sides = [[r.get(metric) for r in subject.repeats] for subject in (row, base)]
    mine, its = ([float(v) for v in side if v is not None] for side in sides)
    return ratio_by_repeats(ratio, mine, its)


def _of_intervals(ratio: float, own: Sheet, base: Sheet, metric: str) -> Bounds | None:
    """Interval of a ratio of two independent quantities: log half-widths added in squares."""
    widths = []
    for side in (own, base):
        if (ends := known_interval(side.intervals.get(metric))) is None:
            return None
        center = side.values[metric]
        widths.append(max(math.log(ends[1] / center), math.log(center / ends[0])))
    half = math.hypot(*widths)
    return ratio * math.exp(-half), ratio * math.exp(half)
