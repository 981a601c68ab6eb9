"""By which metric rows are ranked, which of them may be, and who shares a rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from chipmark.codes import NullReason, meaning
from chipmark.metrics import ranking
from chipmark.table.columns import COLUMNS
from chipmark.table.load import bound_words
from chipmark.table.sheet import ENERGY, Bounds, Sheet

Span = tuple[float, float]
"""(low, high) of a metric, turned so that more is better."""


def default_metric(sheets: Sequence[Sheet]) -> str:
    """What rows of one work are ranked by where no metric is asked for.

    Sessions an hour in the capacity scenario; else total_tok_s, and where the load of a row that
    may be ranked sets that, the append turns' TTFT: p95, or p50 where a p95 is null.
    """
    fit = [s for s in sheets if not s.standing.own] or list(sheets)
    return ranking.default_metric(
        fit[0].subject.scenario,
        load_bound=any(s.standing.load_bound for s in fit),
        has=lambda name: all(name in s.values for s in fit),
    )


def bars(sheet: Sheet, metric: str) -> Iterator[str]:
    """Why this row's value of this metric may not be compared, whatever the other row is."""
    if bound := bound_words(metric, bound=sheet.standing.load_bound):
        yield bound
    if sheet.standing.not_found:
        yield sheet.standing.not_found
    if metric not in sheet.values:
        reason = sheet.reasons.get(metric, NullReason.UNKNOWN)
        yield f"no {metric}: {meaning(reason)} ({reason})"


def span(sheet: Sheet, metric: str) -> Span | str:
    """The row's interval of a metric that it has, or why it has none that could give a rank."""
    low, high = sheet.intervals.get(metric, (None, None))
    if metric not in sheet.intervals:
        if metric in ENERGY:
            return f"no interval of {metric}: the meter states no error, or a repeat has no energy"
        return f"no interval of {metric}"
    if low is None or high is None:
        return f"the interval of {metric} has no {'lower' if low is None else 'upper'} end"
    return (low, high) if COLUMNS[metric].direction == "higher" else (-high, -low)


def ranks(spans: Mapping[int, Span]) -> dict[int, int]:
    """1 + the number of rows before a row's group; the rows of a group are not distinguishable.

    Rows are lined up by the better end of their intervals. A new group begins where the line has a
    gap: where a row's whole interval is worse than those of all rows before it. So rows whose
    intervals overlap always share a rank, rows linked by a chain of overlaps do too (sharing is
    transitive), and two different ranks are always a difference beyond both intervals.
    """
    found: dict[int, int] = {}
    lowest, rank = float("inf"), 0
    for place, index in enumerate(sorted(spans, key=lambda i: -spans[i][1]), 1):
        low, high = spans[index]
        if high < lowest:
            rank = place
        found[index] = rank
        lowest = min(lowest, low)
    return found


def turned(value: float | None, reference: float | None, metric: str) -> float | None:
    """Ratio of two values, over 1 where the first is better; None where either is not positive."""
    if value is None or reference is None or value <= 0 or reference <= 0:
        return None
    return value / reference if COLUMNS[metric].direction == "higher" else reference / value


def known_interval(bounds: Bounds | None) -> tuple[float, float] | None:
    """Both ends where both are there and positive."""
    if bounds is None or bounds[0] is None or bounds[1] is None or bounds[0] <= 0:
        return None
    return bounds[0], bounds[1]
