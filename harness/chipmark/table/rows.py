"""Records and a price book to rows: every column a value or a reason, compared and ranked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chipmark.codes import NoteCode, NullReason
from chipmark.errors import UnknownNameError
from chipmark.prices.book import PriceBook
from chipmark.results.record import Record
from chipmark.table.columns import COLUMNS, RANKABLE, Kind
from chipmark.table.comparable import Comparability, break_even_refusals, compare
from chipmark.table.costing import break_even
from chipmark.table.ranking import (
    Span,
    bars,
    default_metric,
    ranks,
    span,
)
from chipmark.table.sheet import Bounds, Sheet, sheet
from chipmark.table.versus import Versus

METRICS: Mapping[Kind, str] = {"energy": "tok_per_joule", "cost": "cost_per_session"}
"""By what rows are ranked in the kinds that have one metric; speed has one for each kind of work.
"""

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


@dataclass(frozen=True, slots=True)
class _Pair:
    """A row and its baseline."""

    own: Sheet
    """The row's sheet."""
    base: Sheet | None
    """The baseline's; None where no row can serve as one."""
    metric: str
    """The column that both are ranked by."""
    group: int
    """The number of the row's kind of work."""
    across: bool
    """Whether ratios between precision classes are wanted."""
    versus: Versus
    """What computes the ratio."""


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


def ranked_by_kind(
    sheets: Sequence[Sheet], baseline: str | None = None, rank_by: str | None = None
) -> dict[Kind, list[TableRow]]:
    """The rows of `rows_of` ranked by a metric of each kind: for `headline.headline`.

    rank_by: taken for its own kind. Raises as `build_rows` does.
    """
    metrics: dict[Kind, str | None] = {"perf": None, **METRICS}
    if rank_by is not None:
        if rank_by not in RANKABLE:
            raise UnknownNameError("metric to rank by", rank_by, RANKABLE)
        metrics |= {kind: rank_by for kind in metrics if COLUMNS[rank_by].kind == kind}
    return {kind: rows_of(sheets, baseline, metric) for kind, metric in metrics.items()}


def rows_of(
    sheets: Sequence[Sheet],
    baseline: str | None,
    rank_by: str | None,
    *,
    across_precision: bool = False,
) -> list[TableRow]:
    """`build_rows` of sheets."""
    if rank_by is not None and rank_by not in RANKABLE:
        raise UnknownNameError("metric to rank by", rank_by, RANKABLE)
    works = [s.standing.work if across_precision else s.standing.group for s in sheets]
    metrics = _metrics(sheets, works, rank_by)
    bases = _baselines(sheets, works, metrics, baseline)
    groups: dict[tuple[str, ...], int] = {}
    rows, spans, versus = [], {}, Versus()
    for index, own in enumerate(sheets):
        number = groups.setdefault(own.standing.group, len(groups))
        base = bases[index]
        pair = _Pair(
            own,
            None if base is None else sheets[base],
            metrics[works[index]],
            number,
            across_precision,
            versus,
        )
        row, found = _row(pair)
        rows.append(row)
        if found is not None:
            spans[index] = found
    return _ranked(rows, spans)


def _metrics(
    sheets: Sequence[Sheet], works: Sequence[tuple[str, ...]], rank_by: str | None
) -> dict[tuple[str, ...], str]:
    members: dict[tuple[str, ...], list[Sheet]] = {}
    for own, work in zip(sheets, works, strict=True):
        members.setdefault(work, []).append(own)
    return {work: rank_by or default_metric(found) for work, found in members.items()}


def _baselines(
    sheets: Sequence[Sheet],
    works: Sequence[tuple[str, ...]],
    metrics: Mapping[tuple[str, ...], str],
    name: str | None,
) -> list[int | None]:
    """Index of each record's baseline."""
    if name is not None:
        chosen = [i for i, s in enumerate(sheets) if name in (s.record.id, s.values["backend"])]
        if not chosen and sheets:
            valid = {s.record.id for s in sheets} | {s.values["backend"] for s in sheets}
            raise UnknownNameError("baseline", name, valid)
    else:
        # A row that can be ranked goes before one that is merely fit.
        fit = [i for i, s in enumerate(sheets) if not s.standing.own]
        chosen = [i for i in fit if _rankable(sheets[i], metrics[works[i]])] + fit
    first: dict[tuple[str, ...], int] = {}
    for index in chosen:
        first.setdefault(works[index], index)
    default = chosen[0] if name is not None and chosen else None
    return [first.get(work, default) for work in works]


def _rankable(own: Sheet, metric: str) -> bool:
    alone = compare(own.standing, own.standing, (own.costing.money, own.costing.money))
    return COLUMNS[metric].kind in alone.kinds and not any(bars(own, metric))


def _row(pair: _Pair) -> tuple[TableRow, Span | None]:
    """The row without its rank, and the span that ranks it where it may be ranked."""
    own = pair.own
    values, reasons, intervals = dict(own.values), dict(own.reasons), dict(own.intervals)
    comparability = _compared(pair)
    values["comparable"] = list(comparability.kinds)
    notes = list(own.notes)
    ratio = _ratio(pair, comparability)
    if isinstance(ratio, str):
        reasons["vs_baseline"] = ratio
    else:
        values["vs_baseline"], bounds, is_across = ratio
        if bounds is not None:
            intervals["vs_baseline"] = bounds
        if is_across:
            notes.append({"code": _ACROSS, "text": "vs_baseline is across precision classes"})
    values["notes"] = notes
    kind = str(COLUMNS[pair.metric].kind)
    refusals = comparability.refusals.get(kind, ())
    barred = list(dict.fromkeys((*refusals, *bars(own, pair.metric))))
    found = span(own, pair.metric)
    if not barred and isinstance(found, str):
        barred.append(found)
    for name in COLUMNS:
        if values.get(name) is None:
            values[name] = None
            reasons.setdefault(name, NullReason.UNKNOWN)
    row = TableRow(
        values={name: values[name] for name in COLUMNS},
        intervals=intervals,
        rank=None,
        null_reasons={n: reasons[n] for n in COLUMNS if values[n] is None},
        details=_details(pair, comparability, barred),
        group=f"{pair.group}:{'eager' if values['execution'] == 'eager' else 'other'}",
    )
    return row, None if barred or isinstance(found, str) else found


def _compared(pair: _Pair, *, across: bool = False) -> Comparability:
    own, base = pair.own, pair.base
    if base is None:
        refusals = own.standing.own or ("no row can serve as the baseline",)
        return Comparability((), {"perf": refusals, "energy": refusals, "cost": refusals})
    money = (own.costing.money, base.costing.money)
    return compare(own.standing, base.standing, money, across_precision=across)


def _ratio(pair: _Pair, comparability: Comparability) -> tuple[float, Bounds | None, bool] | str:
    """(vs_baseline, its interval, whether it is across precisions), or a reason code."""
    own, base, metric = pair.own, pair.base, pair.metric
    if base is None:
        return NullReason.NO_BASELINE
    kind = COLUMNS[metric].kind
    is_across = False
    if kind not in comparability.kinds:
        if not pair.across or kind not in _compared(pair, across=True).kinds:
            return NullReason.NOT_COMPARABLE
        is_across = True
    mine, its = own.values.get(metric), base.values.get(metric)
    if mine is None or its is None:
        return str((own if mine is None else base).reasons.get(metric, NullReason.UNKNOWN))
    if any(bars(own, metric)) or any(bars(base, metric)):
        return NullReason.NOT_COMPARABLE
    found = pair.versus.ratio(own, base, metric)
    return NullReason.ZERO_DENOMINATOR if found is None else (*found, is_across)


def _details(pair: _Pair, comparability: Comparability, barred: Sequence[str]) -> dict[str, Any]:
    own, base = pair.own, pair.base
    record = own.record
    details: dict[str, Any] = {
        "record": record.id,
        "path": str(record.path),
        "group": pair.group,
        "baseline": None if base is None else base.record.id,
        "not_comparable": {k: list(v) for k, v in comparability.refusals.items()},
        "not_ranked": list(barred),
        "rank_by": pair.metric,
        "marks": {name: list(marks) for name, marks in own.marks.items()},
        "assumed": {name: list(fields) for name, fields in own.costing.assumed.items()},
        "identity": own.standing.identity,
        "slo": record.manifest.slo.model_dump(),
    }
    # A record's own word never takes the place of what was found out about it here.
    stored = record.metrics.details
    details |= {k: v for k, v in stored.items() if k != "metrics_schema" and k not in details}
    details |= {**own.costing.details, **_break_even(pair)}
    energy = details.get("energy") or {}
    for name in ("tok_per_joule_net", "out_tok_per_joule"):
        details[name] = energy.get(name)
    return details


def _break_even(pair: _Pair) -> dict[str, Any]:
    """The break-even price with the reason where there is none; comparability is asked first."""
    own, base = pair.own, pair.base
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


def _ranked(rows: Sequence[TableRow], spans: Mapping[int, Span]) -> list[TableRow]:
    by_group: dict[str, dict[int, Span]] = {}
    for index, found in spans.items():
        by_group.setdefault(rows[index].group, {})[index] = found
    found_ranks = {i: rank for members in by_group.values() for i, rank in ranks(members).items()}
    return [replace(row, rank=found_ranks.get(index)) for index, row in enumerate(rows)]
