"""Which rows may share one ranking, for which of perf, energy and cost, and why not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from chipmark import registry
from chipmark.codes import NoteCode
from chipmark.metrics.ranking import MIN_REPEATS
from chipmark.results.audit import CLEAR, MIN_CLEAR
from chipmark.results.manifest import WorkloadId
from chipmark.results.quality_loss import quality_lost
from chipmark.results.record import SCHEMA, Record
from chipmark.table.capacity import not_found, slo_missed
from chipmark.table.columns import Kind
from chipmark.table.load import load_bound
from chipmark.table.subject import Subject, shared, subject_of
from chipmark.table.units import all_devices_used, is_share, meters_more_than_unit

MIN_COVERAGE = 0.99
MEASURED = ("counter", "polled", "wall")
_LOST_NOTES = (NoteCode.REPEAT_INCOMPLETE, NoteCode.TURNS_LOST, NoteCode.SESSIONS_LOST)
_FALSE_NOTES = (NoteCode.CLOCK, NoteCode.PLUGIN, NoteCode.WEIGHT_BYTES, NoteCode.KV_BYTES)
"""What a backend reports and the record contradicts: an error of `chipmark validate`."""

_UNSTEADY_NOTES = (
    NoteCode.FAR_OVER_ROOF,
    NoteCode.NOT_STEADY,
    NoteCode.THROTTLED_THERMAL,
    NoteCode.THROTTLED_HARDWARE,
    NoteCode.CLOCK_BELOW_NOMINAL,
    NoteCode.OTHER_PROCESSES,
    NoteCode.ECC_ERRORS,
    NoteCode.STATE_CHANGED,
    NoteCode.SHARED_DEVICE,
)
_FOREIGN_WATTS = (NoteCode.HOST_LOAD,)
"""What bars energy and not speed: the repeats of rows rotate, so that a host's other load falls on
all alike, but a meter of its packages counts the watts of others."""

_PRECISION = "precision class"
_JSON_FIELDS = ("cache policy", "SLO")
_SCENARIO_FIELDS = ("number of sessions", "SLO")
_HASH = re.compile(r"[0-9a-f]{32,}")

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
    `rank_refusals`, `group` a key that is equal for rows that do the same work, `work` the same
    without the precision class, `energy` why its energy is not ranked, `load_bound` and
    `not_found` of `table.load` and `table.capacity`."""

    subject: Subject
    identity: dict[str, Any]
    own: tuple[str, ...]
    group: tuple[str, ...]
    work: tuple[str, ...]
    energy: tuple[str, ...]
    load_bound: bool
    not_found: str


@dataclass(frozen=True, slots=True)
class Money:
    """What comparing needs of a row's price. priced: there is a cost. power_enters: the row's own
    power is in it (False where the unit is rented or hosting includes electricity)."""

    priced: bool
    power_enters: bool


def standing(record: Record) -> Standing:
    """The standing of a record."""
    identity = perf_identity(record)
    parts = {name: f"{name}={value}" for name, value in identity.items()}
    return Standing(
        subject_of(record),
        identity,
        own=rank_refusals(record),
        group=shared(tuple(parts.values())),
        work=shared(tuple(part for name, part in parts.items() if name != _PRECISION)),
        energy=tuple(_own_energy(record)),
        load_bound=load_bound(record),
        not_found=not_found(record),
    )


def is_simulated(record: Record) -> bool:
    """Whether the row's clock is virtual: the built-in simulated devices."""
    return registry.is_simulated(record.manifest.backend)


def perf_identity(record: Record) -> dict[str, Any]:
    """What must be equal for two rows to be compared in speed, by the words of a refusal.

    Achieved prefix hits, padding and copies are results and are not in it. A simulated device has
    no weights; such rows are compared among themselves only.
    """
    m = record.manifest
    simulated = is_simulated(record)
    load: dict[str, Any] = {
        "kind of device": "simulated" if simulated else "real",
        "workload hash": m.workload.hash,
        "scenario": m.scenario,
        "source weights": "none" if simulated else m.model.source_hash,
        _PRECISION: m.precision.class_name,
        "feedback": m.feedback,
        "cache policy": json.dumps(m.cache_policy, sort_keys=True),
        "metrics schema": record.metrics.schema_,
    }
    if m.scenario == "equal_n":
        load["number of sessions"] = m.concurrency
    else:
        load["SLO"] = m.slo.model_dump_json()
    return load


def rank_refusals(record: Record) -> tuple[str, ...]:
    """Why a row may not be ranked for speed with anything, by itself: `own_refusals`, and what
    nothing proved about the run."""
    m = record.manifest
    own = own_refusals(record)
    if m.status != "done" or m.load is None:
        return own
    if record.measured_as != SCHEMA:
        return (f"measured as {record.measured_as}, before runs were audited: measure it again",)
    return (*own, *_unproven(record))


def own_refusals(record: Record) -> tuple[str, ...]:
    """Why the numbers of a record are not a fair measurement of its work."""
    m = record.manifest
    if m.status != "done" or m.load is None:
        return ("the cell failed",)
    reasons = list(work_faults(record))
    if m.parity.verdict == "unchecked":
        reasons.append("parity unchecked" + _because(m.parity.reason))
    if m.load.ep_coverage is None:
        reasons.append("ep_coverage is unknown: nothing can tell what ran on the device")
    elif m.load.ep_coverage < MIN_COVERAGE:
        reasons.append(f"ep_coverage {m.load.ep_coverage:.3g} is below {MIN_COVERAGE}")
    if m.load.emulated:
        reasons.append(f"emulated: {m.load.emulated}")
    reasons += _noted(record, _UNSTEADY_NOTES)
    if missed := slo_missed(record):
        reasons.append(f"slo_not_met: {missed}")
    return tuple(reasons)


def work_faults(record: Record) -> tuple[str, ...]:
    """Where a record is known to be of other work than it says: wrong results, work left out, or
    other times, code or bytes."""
    m = record.manifest
    reasons = []
    if m.parity.verdict == "fail":
        reasons.append("parity fail" + _because(m.parity.reason))
    if m.audit.verdict == "fail":
        reasons.append("audit failed" + _because(m.audit.reason))
    reasons += _incomplete(record)
    reasons += _noted(record, (*_LOST_NOTES, *_FALSE_NOTES))
    return tuple(reasons)


def _noted(record: Record, codes: Sequence[str]) -> Iterator[str]:
    for note in (*record.manifest.notes, *record.metrics.notes):
        if note.code in codes:
            yield f"{note.code}: {note.text}"


def _unproven(record: Record) -> Iterator[str]:
    """What a rank needs beyond a fair measurement: an audit, repeats, a clock that is held, and
    quantising that loses little."""
    m = record.manifest
    if lost := quality_lost(m.quality):
        yield f"{NoteCode.QUALITY_LOST}: {lost}"
    if m.audit.verdict == "pending":
        yield NoteCode.AUDIT_PENDING + _because(
            m.audit.reason or "`chipmark audit RUN` finishes it"
        )
    elif m.audit.verdict == "none":
        yield "not audited" + _because(m.audit.reason)
    elif m.audit.ids_clear < min(MIN_CLEAR, m.audit.ids_checked):
        yield (
            f"the audit is too blunt: {m.audit.ids_clear} of {m.audit.ids_checked} places have an "
            f"oracle margin over {CLEAR:g} x the tolerance, {MIN_CLEAR} are needed"
        )
    if (done := len(_complete(record))) < MIN_REPEATS:
        yield f"few_repeats: {done} complete, at least {MIN_REPEATS} are needed"
    code = m.plugins.get("backend")
    if is_simulated(record) and (code is None or not code.built_in):
        where = "unknown code" if code is None else code.module
        yield f"a virtual clock is allowed to the built-in sim only; this one is of {where}"


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _complete(record: Record) -> list[dict[str, Any]]:
    return [repeat for repeat in record.metrics.per_repeat if repeat.get("complete", 1)]


def _incomplete(record: Record) -> Iterator[str]:
    """Repeats or sessions that are missing, with their numbers."""
    m = record.manifest
    done = _complete(record)
    if len(done) < m.repeats:
        yield f"{len(done)} of {m.repeats} repeats are complete"
    noted = any(note.code in _LOST_NOTES for note in (*m.notes, *record.metrics.notes))
    ended = [n for repeat in done if (n := repeat.get("sessions")) is not None]
    owed = m.workload.sessions * m.replicas * len(ended)
    if m.scenario == "equal_n" and sum(ended) < owed and not noted:
        yield f"{sum(ended)} of {owed} sessions ended"


def whole_unit(record: Record) -> bool:
    """Whether the meter covers just what was used: every device of a unit that is not a share."""
    return all_devices_used(record) and not is_share(record)


def compare(
    row: Standing, base: Standing, money: Sequence[Money], *, across_precision: bool = False
) -> Comparability:
    """A row against its baseline. money: of (row, baseline), out of the one price book, currency,
    VAT basis and demand that the table was given. across_precision: as if their precision classes
    were equal, for a ratio that is shown and never ranked."""
    perf = _perf(row, base, across_precision)
    refusals: dict[str, tuple[str, ...]] = {
        "perf": perf,
        "energy": (*perf, *_energy(row, base)),
        "cost": (*perf, *_cost(row, base, money)),
    }
    return Comparability(
        kinds=tuple(kind for kind in KINDS if not refusals[kind]),
        refusals={kind: reasons for kind, reasons in refusals.items() if reasons},
    )


def break_even_refusals(row: Standing, base: Standing, money: Sequence[Money]) -> tuple[str, ...]:
    """Why the row has no break-even price against the baseline: what bars `cost`, except that the
    row itself needs no price."""
    own = Money(True, money[0].power_enters)
    return (*_perf(row, base), *_cost(row, base, (own, money[1])))


def _perf(row: Standing, base: Standing, across_precision: bool = False) -> tuple[str, ...]:
    if row.subject is base.subject:
        return row.own
    reasons = [*row.own, *(f"baseline: {reason}" for reason in base.own)]
    if row.group != base.group:
        reasons += _differences(row, base, across_precision)
    return tuple(reasons)


def _differences(row: Standing, base: Standing, across_precision: bool) -> Iterator[str]:
    """Which fields of the work differ, with both values."""
    mine, its = row.identity, base.identity
    for name in {**mine, **its}:
        same = mine.get(name) == its.get(name)
        other_scenario = name in _SCENARIO_FIELDS and mine["scenario"] != its["scenario"]
        if same or other_scenario or (across_precision and name == _PRECISION):
            continue
        if name == "workload hash":
            words = _workload_words(row.subject.workload, base.subject.workload)
        elif name in _JSON_FIELDS:
            words = _json_words(mine[name], its[name])
        else:
            words = f"{_short(mine.get(name))}, the baseline's is {_short(its.get(name))}"
        yield f"another {name}: {words}"


def _workload_words(mine: WorkloadId, its: WorkloadId) -> str:
    facts = [
        (name, _short(a), _short(b))
        for name, a, b in (
            ("workload", mine.name, its.name),
            ("scale", f"({', '.join(mine.scale)})", f"({', '.join(its.scale)})"),
            ("seed", mine.seed, its.seed),
            ("sessions", mine.sessions, its.sessions),
            ("turns", mine.turns, its.turns),
        )
        if a != b
    ]
    listed = ", ".join(f"{name} {a} against {b}" for name, a, b in facts)
    return listed or f"other tokens, {_short(mine.hash)} against {_short(its.hash)}"


def _json_words(mine: str, its: str) -> str:
    a, b = json.loads(mine), json.loads(its)
    names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    return ", ".join(f"{name} {a.get(name)} against {b.get(name)}" for name in names)


def _short(value: Any) -> str:
    """A hash by its first digits; anything else whole."""
    text = str(value)
    return text[:12] if _HASH.fullmatch(text) else text


def _energy(row: Standing, base: Standing) -> tuple[str, ...]:
    if row.subject is base.subject:
        return row.energy
    reasons = [*row.energy, *(f"baseline: {reason}" for reason in base.energy)]
    scope, its_scope = row.subject.meter_scope, base.subject.meter_scope
    if scope is not None and its_scope is not None and scope != its_scope:
        reasons.append(f"power scope {scope}, the baseline's is {its_scope}")
    unit, its_unit = row.subject.unit, base.subject.unit
    if unit != its_unit:
        reasons.append(f"unit {unit}, the baseline's is {its_unit}")
    return tuple(reasons)


def _own_energy(record: Record) -> Iterator[str]:
    meter = record.manifest.meter
    if meter is None or record.metrics.values.get("tok_per_joule") is None:
        yield "energy is not known"
        return
    if meter.source not in MEASURED:
        yield f"energy is {meter.source}, not measured"
    if meters_more_than_unit(record):
        yield f"the meter covers a {meter.scope}, the unit is a share of it"
    elif not whole_unit(record):
        yield "a part of the unit was used"
    if meter.source in MEASURED:
        yield from _noted(record, _FOREIGN_WATTS)


def _cost(row: Standing, base: Standing, money: Sequence[Money]) -> tuple[str, ...]:
    reasons = list(_own_cost(row, money[0]))
    if row.subject is not base.subject:
        reasons += [f"baseline: {reason}" for reason in _own_cost(base, money[1])]
    return tuple(reasons)


def _own_cost(row: Standing, money: Money) -> Iterator[str]:
    if row.subject.scenario != "capacity":
        yield "cost is ranked in the capacity scenario only"
    elif row.not_found:
        yield row.not_found
    if money.power_enters:
        if row.subject.meter_source not in MEASURED:
            yield f"the energy in the cost is {row.subject.meter_source or 'unknown'}"
        yield from (reason for reason in row.energy if reason.startswith(_FOREIGN_WATTS))
    if not money.priced:
        yield "there is no cost"
