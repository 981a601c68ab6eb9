"""Records and a price book to rows: every column a value or a reason, compared and ranked."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from chipmark.errors import UnknownNameError
from chipmark.prices.book import PriceBook
from chipmark.results.record import Record
from chipmark.table.columns import COLUMNS, RANKABLE
from chipmark.table.comparable import (
    Comparability,
    Standing,
    compare,
    standing,
)
from chipmark.table.costing import Costing, break_even, price
from chipmark_models.config import ModelConfig
from chipmark_models.precision import QUANTISED, label

Bounds = tuple[float | None, float | None]

_DEVICE_WORD = {"cpu-share": "vCPUs", "package": "sockets", "card": "dies", "server": "cards"}
_COST_COLUMNS = ("cost_per_session", "cost_per_mtok", "daily_active_agents")


@dataclass(frozen=True, slots=True)
class Row:
    """One record in the table. values: a value or None for every column of `COLUMNS`.
    rank: place by the ranked metric within `group`, None where the row may not be ranked."""

    values: dict[str, Any]
    intervals: dict[str, Bounds]
    rank: int | None
    null_reasons: dict[str, str]
    details: dict[str, Any]
    group: str

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
    rank_by: str = "total_tok_s",
) -> list[Row]:
    """Rows in the order of the records.

    baseline: a record's id or a backend's name; of each group of rows that do the same work the
    first match is its baseline, and without a match the first match of all. None: the first row
    of each group that may be ranked. Raises UnknownNameError for a baseline that no record has
    and for a metric that cannot be ranked by.
    """
    if rank_by not in RANKABLE:
        raise UnknownNameError("metric to rank by", rank_by, RANKABLE)
    costings = [price(record, book) for record in records]
    standings = [standing(record) for record in records]
    bases = _baselines(standings, baseline)
    groups: dict[tuple[str, ...], int] = {}
    built = []
    for index, own in enumerate(standings):
        number = groups.setdefault(own.group, len(groups))
        built.append(_row(standings, costings, index, bases[index], book, rank_by, number))
    return _ranked(built, rank_by)


def _baselines(standings: Sequence[Standing], name: str | None) -> list[int | None]:
    """Index of each record's baseline."""
    if name is not None:
        records = [own.record for own in standings]
        chosen = [i for i, r in enumerate(records) if name in (r.id, r.manifest.backend)]
        if not chosen and records:
            valid = {r.id for r in records} | {r.manifest.backend for r in records}
            raise UnknownNameError("baseline", name, valid)
    else:
        chosen = [i for i, own in enumerate(standings) if not own.own]
    first: dict[tuple[str, ...], int] = {}
    for index in chosen:
        first.setdefault(standings[index].group, index)
    default = chosen[0] if name is not None and chosen else None
    return [first.get(own.group, default) for own in standings]


def _row(
    standings: Sequence[Standing],
    costings: Sequence[Costing],
    index: int,
    base: int | None,
    book: PriceBook | None,
    rank_by: str,
    group: int,
) -> Row:
    record, costing = standings[index].record, costings[index]
    reasons: dict[str, str] = {}
    values = _identity(record, book)
    for name in COLUMNS:
        if name in record.metrics.values:
            values[name] = record.metrics.values[name]
    values |= {name: getattr(costing, name) for name in _COST_COLUMNS}
    reasons |= record.metrics.null_reasons | costing.reasons
    intervals = {n: b for n, b in record.metrics.intervals.items() if values.get(n) is not None}
    intervals |= _cost_intervals(values, intervals)
    if base is None:
        comparability = Comparability((), {"perf": ("no row can serve as the baseline",)})
        if standings[index].own:
            comparability = Comparability((), {"perf": standings[index].own})
    else:
        priced = [costings[i].cost_per_session is not None for i in (index, base)]
        comparability = compare(standings[index], standings[base], priced)
    values["comparable"] = list(comparability.kinds)
    values["notes"] = _notes(record, costing)
    details: dict[str, Any] = {
        "record": record.id,
        "path": str(record.path),
        "group": group,
        "baseline": None if base is None else standings[base].record.id,
        "not_comparable": {k: list(v) for k, v in comparability.refusals.items()},
        "rank_by": rank_by,
        "identity": standings[index].identity,
        **{k: v for k, v in record.metrics.details.items() if k != "metrics_schema"},
        **costing.details,
    }
    energy = details.get("energy") or {}
    for name in ("tok_per_joule_net", "out_tok_per_joule"):
        details[name] = energy.get(name)
    if base is not None and base != index and "cost" in comparability.kinds:
        details["break_even_chip_price"] = break_even(costing, costings[base])
    kind = COLUMNS[rank_by].kind
    if base is None:
        values["vs_baseline"], reasons["vs_baseline"] = None, "no_baseline"
    elif kind not in comparability.kinds:
        values["vs_baseline"], reasons["vs_baseline"] = None, "not_comparable"
    else:
        reference = _number(standings[base].record, costings[base], rank_by)
        ratio = _turned(values[rank_by], reference, rank_by)
        values["vs_baseline"] = ratio
        if ratio is None:
            reasons["vs_baseline"] = "zero_denominator"
        elif base != index and rank_by in intervals:
            its = _base_interval(standings[base].record, costings[base], rank_by)
            bounds = _ratio_interval(ratio, values[rank_by], intervals[rank_by], reference, its)
            if bounds is not None:
                intervals["vs_baseline"] = bounds
    for name in COLUMNS:
        if values.get(name) is None:
            values[name] = None
            reasons.setdefault(name, "unknown")
    return Row(
        values={name: values[name] for name in COLUMNS},
        intervals=intervals,
        rank=None,
        null_reasons={n: reasons[n] for n in COLUMNS if values[n] is None},
        details=details,
        group=f"{group}:{'eager' if values['execution'] == 'eager' else 'other'}",
    )


def _identity(record: Record, book: PriceBook | None) -> dict[str, Any]:
    m = record.manifest
    p, chip = m.precision, m.chip
    word = _DEVICE_WORD.get(chip.unit, "devices")
    weights = p.weights
    if weights in QUANTISED and m.model.config:
        weights = label(ModelConfig.from_dict(m.model.config), weights)
    parts = f"w {weights}, a {p.activation}, kv {p.kv}, acc {p.accumulate}"
    return {
        "backend": m.backend,
        "chip": chip.name,
        "model": m.model.name,
        "workload": m.workload.name,
        "currency": None if book is None else book.currency,
        "unit": f"{chip.unit} {chip.used}/{chip.of} {word}",
        "precision": f"{p.class_name} ({parts})",
        "execution": None if m.load is None else m.load.execution,
        "graph": None if m.load is None else m.load.graph,
        "scale": f"({', '.join(m.workload.scale)})",
        "scenario": m.scenario,
        "concurrency": m.concurrency,
        "energy_source": None if m.meter is None else m.meter.source,
        "power_scope": None if m.meter is None else m.meter.scope,
        "parity": m.parity.verdict,
        "ep_coverage": None if m.load is None else m.load.ep_coverage,
    }


def _notes(record: Record, costing: Costing) -> list[dict[str, str]]:
    m = record.manifest
    notes = [{"code": n.code, "text": n.text} for n in (*m.notes, *record.metrics.notes)]
    have = {n["code"] for n in notes}

    def add(code: str, text: str) -> None:
        if code not in have:
            notes.append({"code": code, "text": text})

    if m.failure is not None:
        add("cell_failed", f"{m.failure.code}: {m.failure.text}")
    if m.parity.verdict == "fail":
        add("parity_failed", m.parity.reason or "logits differ from the oracle's")
    if m.parity.verdict == "unchecked":
        add("parity_unchecked", m.parity.reason or "logits were not compared")
    if m.load is not None and m.load.execution == "eager":
        add("execution_eager", "ranked in a group of its own")
    if m.model.source_kind == "synthetic":
        add("weights_synthetic", "seeded synthetic weights")
    for code, text in costing.notes:
        add(code, text)
    return notes


def _cost_intervals(values: dict[str, Any], intervals: dict[str, Bounds]) -> dict[str, Bounds]:
    """Money moves with sessions per hour: their interval, mirrored. Prices are not in it."""
    rate, bounds = values.get("sessions_per_hour"), intervals.get("sessions_per_hour")
    if not rate or bounds is None or bounds[0] is None or bounds[1] is None:
        return {}
    found: dict[str, Bounds] = {}
    for name in ("cost_per_session", "cost_per_mtok"):
        if (value := values.get(name)) is not None and bounds[0] > 0:
            found[name] = (value * rate / bounds[1], value * rate / bounds[0])
    if (agents := values.get("daily_active_agents")) is not None:
        found["daily_active_agents"] = (agents * bounds[0] / rate, agents * bounds[1] / rate)
    return found


def _number(record: Record, costing: Costing, name: str) -> float | None:
    if name in _COST_COLUMNS:
        value: float | None = getattr(costing, name)
        return value
    if name == "ep_coverage":
        return None if record.manifest.load is None else record.manifest.load.ep_coverage
    return record.metrics.values.get(name)


def _base_interval(record: Record, costing: Costing, name: str) -> Bounds | None:
    numbers = {n: _number(record, costing, n) for n in (*_COST_COLUMNS, "sessions_per_hour", name)}
    known = dict(record.metrics.intervals)
    return {**known, **_cost_intervals(numbers, known)}.get(name)


def _turned(value: float | None, reference: float | None, name: str) -> float | None:
    if value is None or reference is None or value <= 0 or reference <= 0:
        return None
    return value / reference if COLUMNS[name].direction == "higher" else reference / value


def _ratio_interval(
    ratio: float, value: float | None, mine: Bounds, reference: float | None, its: Bounds | None
) -> Bounds | None:
    """Interval of a ratio of two independent quantities: log half-widths added in squares."""
    if value is None or reference is None or its is None:
        return None
    widths = []
    for center, (low, high) in ((value, mine), (reference, its)):
        if low is None or high is None or low <= 0 or high <= 0 or center <= 0:
            return None
        widths.append(max(math.log(high / center), math.log(center / low)))
    half = math.hypot(*widths)
    return ratio * math.exp(-half), ratio * math.exp(half)


def _ranked(rows: list[Row], rank_by: str) -> list[Row]:
    """Give each rankable row 1 + the number of rows of its group that are surely better: whose
    whole interval lies beyond its own on the better side."""
    column = COLUMNS[rank_by]
    # Turned so that more is better, a rival is surely better when its low end is above this high.
    spans: dict[int, tuple[float, float]] = {}
    for index, row in enumerate(rows):
        value = row.values[rank_by]
        if value is not None and column.kind in row.values["comparable"]:
            low, high = row.intervals.get(rank_by, (value, value))
            low, high = -math.inf if low is None else low, math.inf if high is None else high
            spans[index] = (low, high) if column.direction == "higher" else (-high, -low)
    lows: dict[str, list[float]] = {}
    for index, (low, _) in spans.items():
        lows.setdefault(rows[index].group, []).append(low)
    for ends in lows.values():
        ends.sort()
    result = []
    for index, row in enumerate(rows):
        rank = None
        if index in spans:
            ends = lows[row.group]
            rank = 1 + len(ends) - bisect_right(ends, spans[index][1])
        result.append(replace(row, rank=rank))
    return result
