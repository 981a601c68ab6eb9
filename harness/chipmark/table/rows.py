"""Records and a price book to rows: every column a value or a reason, compared and ranked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from chipmark.codes import NoteCode, NullReason
from chipmark.prices.book import PriceBook
from chipmark.results.record import Record
from chipmark.table.columns import COLUMNS
from chipmark.table.comparable import break_even_refusals
from chipmark.table.costing import break_even
from chipmark.table.judged import Judged, compared, judge
from chipmark.table.ranking import bars
from chipmark.table.sheet import Bounds, Sheet, sheet
from chipmark.table.versus import Versus

_ACROSS = NoteCode.ACROSS_PRECISION


@dataclass(frozen=True, slots=True)
class TableRow:
    """One record in the table."""

    values: dict[str, Any]
    """A value or None for every column of `COLUMNS`."""
    intervals: dict[str, Bounds]
    """95 % intervals, by column."""
    rank: int | None
    """Place by the ranked metric within `group`; None where the row may not be ranked, for the
    reasons in `details["not_ranked"]`."""
    null_reasons: dict[str, str]
    """A code for each column that is None."""
    details: dict[str, Any]
    """What JSON has for each row beyond the columns (`EXTRA_KEYS`)."""
    group: str
    """Rows of one group are ranked together."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of the row: exactly the columns, then EXTRA_KEYS."""
        return {
            **{name: self.values[name] for name in COLUMNS},
            "intervals": {name: list(bounds) for name, bounds in self.intervals.items()},
            "rank": self.rank,
            "null_reasons": self.null_reasons,
            "details": self.details,
        }


def build_rows(
    records: Sequence[Record],
    book: PriceBook | None,
    baseline: str | None = None,
    rank_by: str | None = None,
    *,
    across_precision: bool = False,
) -> list[TableRow]:
    """Rows in the order of the records.

    baseline: a record's id or a backend's name; of each group of rows that do the same work the
    first match is its baseline, and without a match the first match of all. None: the first row
    of each group that may be ranked. rank_by: a column; None chooses one for each group by
    `ranking.default_metric`. across_precision: rows of other precision classes have ratios to one
    baseline too, which never rank. Raises UnknownNameError for a baseline that no record has and
    for a metric that cannot be ranked by.
    """
    return rows_of(sheets_of(records, book), baseline, rank_by, across_precision=across_precision)


def sheets_of(records: Sequence[Record], book: PriceBook | None) -> list[Sheet]:
    """Each record priced by itself: what rows are made from, however they are ranked."""
    return [sheet(record, book) for record in records]


def rows_of(
    sheets: Sequence[Sheet],
    baseline: str | None,
    rank_by: str | None,
    *,
    across_precision: bool = False,
) -> list[TableRow]:
    """`build_rows` of sheets."""
    return list(each_row(judge(sheets, baseline, rank_by, across_precision=across_precision)))


def each_row(judged: Iterable[Judged]) -> Iterator[TableRow]:
    """The rows one by one, for what shows a row and lets it go."""
    versus = Versus()
    for found in judged:
        yield _row(found, versus)


def row_of(judged: Judged) -> TableRow:
    """One row."""
    return _row(judged, Versus())


def _row(judged: Judged, versus: Versus) -> TableRow:
    own = judged.own
    values, reasons, intervals = dict(own.values), dict(own.reasons), dict(own.intervals)
    values["comparable"] = list(judged.comparability.kinds)
    notes = list(own.notes)
    ratio = _ratio(judged, versus)
    if isinstance(ratio, str):
        reasons["vs_baseline"] = ratio
    else:
        values["vs_baseline"], bounds, is_across = ratio
        if bounds is not None:
            intervals["vs_baseline"] = bounds
        if is_across:
            notes.append({"code": _ACROSS, "text": "vs_baseline is across precision classes"})
    values["notes"] = notes
    full = {name: values.get(name) for name in COLUMNS}
    return TableRow(
        values=full,
        intervals=intervals,
        rank=judged.rank,
        null_reasons={
            name: reasons.get(name, NullReason.UNKNOWN)
            for name, value in full.items()
            if value is None
        },
        details=_details(judged),
        group=judged.group,
    )


def _ratio(judged: Judged, versus: Versus) -> tuple[float, Bounds | None, bool] | str:
    """(vs_baseline, its interval, whether it is across precisions), or a reason code."""
    own, base, metric = judged.own, judged.base, judged.metric
    if base is None:
        return NullReason.NO_BASELINE
    kind = COLUMNS[metric].kind
    is_across = False
    if kind not in judged.comparability.kinds:
        if not judged.across or kind not in compared(own, base, across=True).kinds:
            return NullReason.NOT_COMPARABLE
        is_across = True
    mine, its = own.values.get(metric), base.values.get(metric)
    if mine is None or its is None:
        return str((own if mine is None else base).reasons.get(metric, NullReason.UNKNOWN))
    if any(bars(own, metric)) or any(bars(base, metric)):
        return NullReason.NOT_COMPARABLE
    found = versus.ratio(own, base, metric)
    return NullReason.ZERO_DENOMINATOR if found is None else (*found, is_across)


def _details(judged: Judged) -> dict[str, Any]:
    own, base = judged.own, judged.base
    subject = own.subject
    details: dict[str, Any] = {
        "record": subject.id,
        "path": str(subject.path),
        "group": judged.work,
        "baseline": None if base is None else base.subject.id,
        "not_comparable": {k: list(v) for k, v in judged.comparability.refusals.items()},
        "not_ranked": list(judged.barred),
        "rank_by": judged.metric,
        "marks": {name: list(marks) for name, marks in own.marks.items()},
        "assumed": {name: list(fields) for name, fields in own.costing.assumed.items()},
        "identity": own.standing.identity,
        "slo": subject.slo.model_dump(),
    }
    # A record's own word never takes the place of what was found out about it here.
    stored = subject.details
    details |= {k: v for k, v in stored.items() if k != "metrics_schema" and k not in details}
    details |= {**own.costing.details, **_break_even(own, base)}
    energy = details.get("energy") or {}
    for name in ("tok_per_joule_net", "out_tok_per_joule"):
        details[name] = energy.get(name)
    return details


def _break_even(own: Sheet, base: Sheet | None) -> dict[str, Any]:
    """The break-even price with the reason where there is none; comparability is asked first."""
    if base is None:
        refusals = own.standing.own or ("no row can serve as the baseline",)
        money = break_even(own.costing, own.costing, refusals)
    else:
        both = (own.costing.money, base.costing.money)
        refusals = break_even_refusals(own.standing, base.standing, both)
        money = break_even(own.costing, base.costing, refusals)
    return {
        "break_even_chip_price": money.price,
        "break_even_null_reason": money.reason or None,
        "break_even_refusals": list(money.refusals),
    }
