"""One record by itself, before any comparison: values, reasons, intervals, marks and notes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from chipmark.chips.contract import HOST_UNITS
from chipmark.codes import NoteCode, NullReason
from chipmark.prices.book import PriceBook
from chipmark.results.quality_loss import perplexities, quality_lost
from chipmark.results.record import SCHEMA, Record
from chipmark.table.beside import power_beside
from chipmark.table.capacity import METRICS_1, cut_words, is_cut, of_first_definitions, slo_missed
from chipmark.table.columns import COLUMNS
from chipmark.table.comparable import MEASURED, Standing, is_simulated, standing
from chipmark.table.costing import AGENTS, COSTS, MONEY, Costing, price
from chipmark.table.subject import Subject
from chipmark.table.units import chip_label, meters_more_than_unit, power_limit
from chipmark_models.config import ModelConfig
from chipmark_models.precision import QUANTISED, label

Bounds = tuple[float | None, float | None]
Mark = Literal["at_least", "at_most", "assumed", "this_load"]
"""A doubt about a printed value: a bound from one side, resting on an assumption, or true of this
very load alone."""

ENERGY = ("tok_per_joule", "joule_per_session", "power_w")
_DEVICE_WORD = {"cpu-share": "vCPUs", "package": "sockets", "card": "dies", "server": "cards"}


@dataclass(frozen=True, slots=True)
class Sheet:
    """One record's numbers, before it is compared."""

    standing: Standing
    """What comparing needs of the record."""
    costing: Costing
    """Its money."""
    values: dict[str, Any]
    """By column, absent where null."""
    reasons: dict[str, str]
    """Codes of nulls, by column."""
    intervals: dict[str, Bounds]
    """95 %, by column; those of energy widened by the meter's stated error."""
    marks: dict[str, tuple[Mark, ...]]
    """Doubts, by column."""
    notes: tuple[dict[str, str], ...]
    """{code, text} of each remark."""

    @property
    def subject(self) -> Subject:
        """What is kept of the record."""
        return self.standing.subject


def sheet(record: Record, book: PriceBook | None) -> Sheet:
    """The sheet of a record, priced by a book."""
    costing = price(record, book)
    refused = _refused(record)
    found = {n: record.metrics.values.get(n) for n in COLUMNS if n in record.metrics.values}
    found |= {name: getattr(costing, name) for name in MONEY}
    values = _identity(record, book) | {n: v for n, v in found.items() if n not in refused}
    values = {name: value for name, value in values.items() if value is not None}
    known = {n: b for n, b in record.metrics.intervals.items() if n in values}
    intervals = _with_meter_error(record, known)
    intervals |= _money_intervals(record, costing, values, intervals)
    return Sheet(
        standing=standing(record),
        costing=costing,
        values=values,
        reasons=dict.fromkeys(("power_beside", "meter"), NullReason.NOT_MEASURED)
        | {
            "energy_error_rel": record.metrics.energy.get("error_null_reason")
            or NullReason.NOT_MEASURED
        }
        | _of_loading(record)
        | _not_kept(record)
        | _quality_reasons(record)
        | record.metrics.null_reasons
        | costing.reasons
        | refused,
        intervals=intervals,
        marks=_marks(record, costing),
        notes=tuple({"code": code, "text": text} for code, text in _notes(record, costing)),
    )


def _refused(record: Record) -> dict[str, str]:
    """Metrics of the record that may not be shown as numbers, each with its reason code."""
    refused: dict[str, str] = {}
    if meters_more_than_unit(record):
        refused |= dict.fromkeys(ENERGY, NullReason.UNIT_PARTLY_USED)
    if of_first_definitions(record):
        refused["sessions_per_hour"] = NullReason.NOT_IN_SCHEMA_1
    if slo_missed(record):
        refused["sessions_per_hour"] = NullReason.SLO_NOT_MET
    return refused


def _of_loading(record: Record) -> dict[str, str]:
    m = record.manifest
    if m.load is None:
        reason = NullReason.CELL_FAILED if m.status == "failed" else NullReason.UNKNOWN
        return dict.fromkeys(("ep_coverage", "load_s", "compile_s", "peak_device_bytes"), reason)
    on_host = m.chip.unit in HOST_UNITS
    return {"peak_device_bytes": NullReason.HOST_MEMORY if on_host else NullReason.UNKNOWN}


def _not_kept(record: Record) -> dict[str, str]:
    """Metrics that the first definitions did not have; `chipmark recompute` derives them."""
    if record.metrics.schema_ != METRICS_1:
        return {}
    of_runs = [c.name for c in COLUMNS.values() if c.kind in ("perf", "energy")]
    return {n: NullReason.NOT_IN_SCHEMA_1 for n in of_runs if n not in record.metrics.values}


def _quality_reasons(record: Record) -> dict[str, str]:
    """Why there is no perplexity; a sum too large for one has no other reason."""
    quality = record.manifest.quality
    reason = NullReason.UNKNOWN if quality.reason is None else quality.reason
    return dict.fromkeys(perplexities(quality), reason)


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
        "chip": chip_label(chip),
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
        "replicas": m.replicas,
        "energy_source": None if m.meter is None else m.meter.source,
        "power_scope": None if m.meter is None else m.meter.scope,
        "power_beside": power_beside(record),
        "meter": None if m.meter is None else m.meter.name,
        "energy_error_rel": record.metrics.energy.get("error_rel"),
        "parity": _parity(record),
        "ep_coverage": None if m.load is None else m.load.ep_coverage,
        "load_s": None if m.load is None else m.load.load_s,
        "compile_s": None if m.load is None else m.load.compile_s,
        "peak_device_bytes": None if m.load is None else m.load.peak_device_bytes,
        **perplexities(m.quality),
    }


def _parity(record: Record) -> str:
    """The verdict of the check before the run together with that of the audit after it."""
    m = record.manifest
    if m.audit.verdict == "fail":
        return "fail"
    if m.parity.verdict == "pass" and m.audit.verdict == "pending":
        return "audit_pending"
    return m.parity.verdict


def _notes(record: Record, costing: Costing) -> Iterator[tuple[str, str]]:
    """The record's own notes, then what the table concludes, each code that it adds once."""
    noted = [(n.code, n.text) for n in (*record.manifest.notes, *record.metrics.notes)]
    yield from noted
    have = {code for code, _ in noted}
    for code, text in (*_conclusions(record), *costing.notes):
        if code not in have:
            have.add(code)
            yield code, text


def _conclusions(record: Record) -> Iterator[tuple[str, str]]:
    m = record.manifest
    if m.failure is not None:
        yield NoteCode.CELL_FAILED, m.failure.text
    if m.parity.verdict == "fail":
        yield NoteCode.PARITY_FAILED, m.parity.reason or "logits differ from the oracle's"
    if m.parity.verdict == "unchecked":
        yield NoteCode.PARITY_UNCHECKED, m.parity.reason or "logits were not compared"
    if m.audit.verdict == "fail":
        yield (
            NoteCode.AUDIT_FAILED,
            m.audit.reason or "the timed run is not what the oracle computes",
        )
    if m.audit.verdict == "pending":
        yield NoteCode.AUDIT_PENDING, m.audit.reason or "`chipmark audit RUN` finishes it"
    if lost := quality_lost(m.quality):
        yield NoteCode.QUALITY_LOST, lost
    if m.load is not None and m.load.execution == "eager":
        yield NoteCode.EXECUTION_EAGER, "ranked in a group of its own"
    if m.model.source_kind == "synthetic":
        yield NoteCode.WEIGHTS_SYNTHETIC, "seeded synthetic weights"
    if is_simulated(record):
        yield NoteCode.SIMULATED, "ranked among simulated devices only"
    if limit := power_limit(m.chip):
        yield NoteCode.POWER_LIMIT, f"{limit[0]:g} W of {limit[1]:g} W by default"
    if meters_more_than_unit(record) and m.meter is not None:
        yield (
            NoteCode.UNIT_PARTLY_USED,
            f"the meter covers a {m.meter.scope}, the unit is a share of it",
        )
    if missed := slo_missed(record):
        yield NoteCode.SLO_NOT_MET, missed
    elif is_cut(record):
        yield NoteCode.CAPACITY_CUT, cut_words(record)


def _with_meter_error(record: Record, known: Mapping[str, Bounds]) -> dict[str, Bounds]:
    """Intervals in which those of measured energy hold the stated error of the meter as well.

    Joules are off by a factor within 1 - e and 1 + e. A meter that states no error leaves its
    numbers without an interval. Power that was not measured keeps the spread of the repeats.
    """
    meter = record.manifest.meter
    if meter is None or meter.source not in MEASURED:
        return dict(known)
    error = record.metrics.energy.get("error_rel")
    widened = {}
    for name, (low, high) in known.items():
        if name not in ENERGY:
            widened[name] = (low, high)
        elif error is not None:
            up, down = 1 + error, max(1 - error, 0.0)
            if name == "tok_per_joule":
                top = high / down if high is not None and down > 0 else None
                widened[name] = (None if low is None else low / up, top)
            else:
                widened[name] = (
                    None if low is None else low * down,
                    None if high is None else high * up,
                )
    return widened


def _money_intervals(
    record: Record, costing: Costing, values: Mapping[str, Any], intervals: Mapping[str, Bounds]
) -> dict[str, Bounds]:
    """Money moves with sessions per hour: their interval, mirrored, and the meter's error on the
    energy in it; measured energy without a stated error leaves costs without an interval. Prices
    are not in it."""
    rate, bounds = values.get("sessions_per_hour"), intervals.get("sessions_per_hour")
    if not rate or bounds is None or bounds[0] is None or bounds[1] is None:
        return {}
    meter, off = record.manifest.meter, 0.0
    bounded = True
    if costing.power_enters and meter is not None:
        error = record.metrics.energy.get("error_rel")
        bounded = error is not None or meter.source not in MEASURED
        off = (error or 0.0) * costing.energy_share
    found: dict[str, Bounds] = {}
    for name in COSTS if bounded else ():
        if (value := values.get(name)) is not None and bounds[0] > 0:
            low, high = value * rate / bounds[1], value * rate / bounds[0]
            found[name] = (low * max(1 - off, 0.0), high * (1 + off))
    if (agents := values.get(AGENTS)) is not None:
        found[AGENTS] = (agents * bounds[0] / rate, agents * bounds[1] / rate)
    return found


def _marks(record: Record, costing: Costing) -> dict[str, tuple[Mark, ...]]:
    m = record.manifest
    marks: dict[str, list[Mark]] = {}
    source = None if m.meter is None else m.meter.source
    # Before record/2 no check compared a declared power with the nameplate.
    unproven = source == "assumed" or (source == "declared" and record.measured_as != SCHEMA)
    for name in ENERGY:
        if unproven:
            marks.setdefault(name, []).append("assumed")
        elif source == "declared":
            # A nameplate is an upper bound of power, so of joules; tokens a joule are at least so.
            marks.setdefault(name, []).append("at_least" if name == "tok_per_joule" else "at_most")
    if is_cut(record):
        for name in ("sessions_per_hour", AGENTS):
            marks.setdefault(name, []).append("at_least")
        for name in COSTS:
            marks.setdefault(name, []).append("at_most")
    for name in MONEY:
        power = name in COSTS and costing.power_enters and source not in MEASURED
        if power or costing.assumed.get(name):
            marks.setdefault(name, []).append("assumed")
        if name in COSTS and m.scenario == "equal_n":
            marks.setdefault(name, []).append("this_load")
    return {name: tuple(found) for name, found in marks.items()}
