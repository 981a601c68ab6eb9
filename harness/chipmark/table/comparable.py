"""Which rows may stand in one ranking, for which of perf, energy and cost, and why not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chipmark.results.record import Record
from chipmark.table.columns import Kind

MIN_COVERAGE = 0.99
MEASURED = ("counter", "polled", "wall")
_BARRING_NOTES = ("clock", "not_steady", "throttled_thermal", "throttled_hardware")

KINDS: tuple[Kind, ...] = ("perf", "energy", "cost")


@dataclass(frozen=True, slots=True)
class Comparability:
    """kinds: those in which the row may be ranked with its baseline. refusals: for every other
    kind, all reasons, in words."""

    kinds: tuple[Kind, ...]
    refusals: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Standing:
    """What comparing needs of a record, computed once: `identity` by `perf_identity`, `own` by
    `own_refusals`, `group` a key that is equal for rows that do the same work."""

    record: Record
    identity: dict[str, Any]
    own: tuple[str, ...]
    group: tuple[str, ...]


def standing(record: Record) -> Standing:
    """The standing of a record."""
    identity = perf_identity(record)
    group = tuple(f"{name}={value}" for name, value in identity.items())
    return Standing(record, identity, own_refusals(record), group)


def perf_identity(record: Record) -> dict[str, Any]:
    """What must be equal for two rows to be compared in speed, by the words of a refusal.

    Achieved prefix hits, padding and copies are results and are not in it.
    """
    m = record.manifest
    load: dict[str, Any] = {
        "workload hash": m.workload.hash,
        "scenario": m.scenario,
        "source weights": m.model.source_hash,
        "precision class": m.precision.class_name,
        "feedback": m.feedback,
        "cache policy": json.dumps(m.cache_policy, sort_keys=True),
        "metrics schema": record.metrics.schema_,
    }
    if m.scenario == "equal_n":
        load["number of sessions"] = m.concurrency
    else:
        load["SLO"] = m.slo.model_dump_json()
    return load


def own_refusals(record: Record) -> tuple[str, ...]:
    """Why a row may not be ranked for speed with anything, by itself."""
    m = record.manifest
    if m.status != "done" or m.load is None:
        return ("the cell failed",)
    reasons = []
    if m.parity.verdict != "pass":
        because = f": {m.parity.reason}" if m.parity.reason else ""
        reasons.append(f"parity {m.parity.verdict}{because}")
    if m.load.ep_coverage is None:
        reasons.append("ep_coverage is unknown: nothing can tell what ran on the device")
    elif m.load.ep_coverage < MIN_COVERAGE:
        reasons.append(f"ep_coverage {m.load.ep_coverage:.3g} is below {MIN_COVERAGE}")
    for note in (*m.notes, *record.metrics.notes):
        if note.code in _BARRING_NOTES:
            reasons.append(f"{note.code}: {note.text}")
    return tuple(reasons)


def whole_unit(record: Record) -> bool:
    """Whether every device that price and meter cover was used."""
    return record.manifest.chip.used >= record.manifest.chip.of


def compare(row: Standing, base: Standing, priced: Sequence[bool]) -> Comparability:
    """A row against its baseline. `priced`: whether (row, baseline) have a cost out of the one
    price book, currency, VAT basis and demand that the table was given."""
    perf = _perf(row, base)
    refusals: dict[str, tuple[str, ...]] = {
        "perf": perf,
        "energy": (*perf, *_energy(row.record, base.record)),
        "cost": (*perf, *_cost(row.record, base.record, priced)),
    }
    return Comparability(
        kinds=tuple(kind for kind in KINDS if not refusals[kind]),
        refusals={kind: reasons for kind, reasons in refusals.items() if reasons},
    )


def _perf(row: Standing, base: Standing) -> tuple[str, ...]:
    if row.record is base.record:
        return row.own
    reasons = [*row.own, *(f"baseline: {reason}" for reason in base.own)]
    if row.group != base.group:
        mine, its = row.identity, base.identity
        names = {**mine, **its}
        reasons += [f"another {name}" for name in names if mine.get(name) != its.get(name)]
    return tuple(reasons)


def _energy(record: Record, base: Record) -> tuple[str, ...]:
    meter, its = record.manifest.meter, base.manifest.meter
    if meter is None or record.metrics.values.get("tok_per_joule") is None:
        return ("energy is not known",)
    reasons = []
    if meter.source not in MEASURED:
        reasons.append(f"energy is {meter.source}, not measured")
    if not whole_unit(record):
        reasons.append("a part of the unit was used")
    if record is base:
        return tuple(reasons)
    if its is None or base.metrics.values.get("tok_per_joule") is None:
        return (*reasons, "baseline: energy is not known")
    if its.source not in MEASURED:
        reasons.append(f"baseline: energy is {its.source}, not measured")
    if not whole_unit(base):
        reasons.append("baseline: a part of the unit was used")
    if meter.scope != its.scope:
        reasons.append(f"power scope {meter.scope}, the baseline's is {its.scope}")
    if meter.source != its.source:
        reasons.append(f"source class {meter.source}, the baseline's is {its.source}")
    return tuple(reasons)


def _cost(record: Record, base: Record, priced: Sequence[bool]) -> tuple[str, ...]:
    reasons = []
    if record.manifest.scenario != "capacity":
        reasons.append("cost is ranked in the capacity scenario only")
    if not priced[0]:
        reasons.append("the row has no cost")
    if not priced[1] and record is not base:
        reasons.append("the baseline has no cost")
    return tuple(reasons)
