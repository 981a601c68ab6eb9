"""A record and a price book to money: cost of a session and of tokens, agents a unit serves.

In the `equal_n` scenario the cost is that of this very load, all day (on all year, utilisation 1);
it is printed with `~` and never ranked. In the `capacity` scenario utilisation is the book's
demand, and power is taken at the offered load out of the sweep over N.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from chipmark.metrics import cost
from chipmark.prices.book import PriceBook, UnitEntry
from chipmark.results.manifest import SweepPoint
from chipmark.results.record import Record
from chipmark.table.comparable import whole_unit


@dataclass(frozen=True, slots=True)
class Costing:
    """Numbers in the book's currency; `reasons` has a code for each of the three that is None.
    `basis` is what a break-even against another row needs: (Y, site, price, energy)."""

    cost_per_session: float | None = None
    cost_per_mtok: float | None = None
    daily_active_agents: float | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    notes: tuple[tuple[str, str], ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    basis: tuple[float, cost.Site, cost.UnitPrice, float] | None = None


def price(record: Record, book: PriceBook | None) -> Costing:
    """Cost of a record's cell by a book."""
    agents, agents_reason = _agents(record, book)
    if book is None:
        return _without("no_price_book", agents, agents_reason)
    if record.manifest.status != "done":
        return _without("cell_failed", agents, agents_reason)
    if not whole_unit(record):
        return _without("unit_partly_used", agents, agents_reason)
    entry = book.match(record.manifest.chip.name, record.manifest.chip.unit)
    if entry is None or (entry.purchase is None and entry.rent_per_hour is None):
        return _without("no_price", agents, agents_reason)
    rate = record.metrics.values.get("sessions_per_hour")
    if not rate:
        reason = record.metrics.null_reasons.get("sessions_per_hour", "no_sessions")
        return _without(reason, agents, agents_reason)
    capacity = record.manifest.scenario == "capacity"
    if capacity and book.demand.utilisation is None:
        return _without("no_demand", agents, agents_reason)
    site = book.site_factors()
    utilisation = 1.0
    if capacity and book.demand.utilisation is not None:
        utilisation = book.demand.utilisation.value
    if not capacity:
        site = replace(site, on_share=1.0)
    notes: list[tuple[str, str]] = []
    energy, reason = _energy(record, entry, site, utilisation * rate, notes)
    if energy is None:
        return _without(reason, agents, agents_reason)
    unit = entry.price(record.manifest.chip.used)
    yearly = cost.yearly_cost(site, unit, energy)
    sessions = cost.yearly_sessions(site, rate, utilisation)
    tokens = record.metrics.details.get("work_tokens_per_session") or 0.0
    if not capacity:
        notes.append(("cost_at_this_load", "cost at this very load, all day; not ranked"))
    if assumed := entry.assumptions():
        notes.append(("price_assumed", f"{book.name}, {entry.name}: {', '.join(assumed)}"))
    per_session = cost.cost_per_session(yearly, sessions)
    per_mtok = cost.cost_per_mtok(yearly, sessions, tokens)
    reasons = {} if agents is not None else {"daily_active_agents": agents_reason}
    if per_mtok is None:
        reasons["cost_per_mtok"] = "zero_denominator"
    return Costing(
        cost_per_session=per_session,
        cost_per_mtok=per_mtok,
        daily_active_agents=agents,
        reasons=reasons,
        notes=tuple(notes),
        details={
            "prices": {
                "book": book.name, "date": book.date, "vat": book.vat, "entry": entry.name,
                "currency": book.currency,
            },
            "utilisation": utilisation,
            "sessions_per_year": sessions,
            "cost_per_year": yearly.total,
            "cost_per_year_parts": {
                "capital": yearly.capital, "energy": yearly.energy, "hosting": yearly.hosting,
                "software": yearly.software, "staff": yearly.staff, "rent": yearly.rent,
            },
            "cost_by_class": _by_class(record, yearly, sessions),
        },
        basis=None if unit.chip is None else (sessions, site, unit, energy),
    )  # fmt: skip


def break_even(costing: Costing, reference: Costing) -> float | None:
    """The chip price at which this row's session costs what the reference's does; None: no price,
    or no basis. Linear, so that "wins below this price" is true of every lower one."""
    if costing.basis is None or reference.cost_per_session is None:
        return None
    return cost.break_even_chip_price(reference.cost_per_session, *costing.basis)


def _without(reason: str, agents: float | None, agents_reason: str) -> Costing:
    reasons = dict.fromkeys(("cost_per_session", "cost_per_mtok"), reason)
    if agents is None:
        reasons["daily_active_agents"] = agents_reason
    return Costing(daily_active_agents=agents, reasons=reasons)


def _energy(
    record: Record,
    entry: UnitEntry,
    site: cost.Site,
    offered_per_hour: float,
    notes: list[tuple[str, str]],
) -> tuple[float | None, str]:
    """Energy cost of a year, or the reason why it is not known. Rent holds its own."""
    if entry.rent_per_hour is not None or site.power_in_hosting:
        return 0.0, ""
    meter = record.manifest.meter
    power_w = record.metrics.values.get("power_w")
    if meter is None or power_w is None:
        return None, record.metrics.null_reasons.get("power_w", "not_measured")
    if record.manifest.scenario == "capacity":
        at_load = power_at(record.manifest.sweep, offered_per_hour)
        if at_load is None:
            notes.append(("load_as_full", "power at the offered load is not in the sweep"))
        else:
            power_w = at_load
    host_w = entry.host_power_w(record.manifest.chip.used)
    load_w, reason = cost.facility_power(power_w, meter.scope, site, host_w)
    if load_w is None:
        return None, reason
    idle = (record.metrics.details.get("energy") or {}).get("idle_w")
    idle_w: float | None = load_w
    if idle:
        idle_w, reason = cost.facility_power((idle[0] + idle[1]) / 2, meter.scope, site, host_w)
    elif site.availability < 1:
        notes.append(("idle_as_load", "power at idle is not known"))
    return cost.yearly_energy_cost(site, load_w, load_w if idle_w is None else idle_w), ""


def power_at(sweep: tuple[SweepPoint, ...], sessions_per_hour: float) -> float | None:
    """Power at an offered load: linear between the sweep's points, the lowest below them; None
    where no point has both a rate and a power, or all are below the load."""
    points = sorted(
        (p.sessions_per_hour, p.power_w)
        for p in sweep
        if p.sessions_per_hour is not None and p.power_w is not None
    )
    before: tuple[float, float] | None = None
    for rate, watts in points:
        if rate >= sessions_per_hour:
            if before is None or rate == before[0]:
                return watts
            share = (sessions_per_hour - before[0]) / (rate - before[0])
            return before[1] + share * (watts - before[1])
        before = (rate, watts)
    return None


def _by_class(record: Record, yearly: cost.YearlyCost, sessions: float) -> dict[str, float | None]:
    """Cost per million tokens by class: `allocated_*` shares C by device time, cached tokens by
    the time of copies; `loaded_out` lays all of C on the output."""
    details = record.metrics.details
    seconds = details.get("seconds_by_phase") or {}
    window_tokens = {"new": details.get("n_new") or 0, "out": details.get("n_out") or 0}
    whole = sum(window_tokens.values())
    per_session = details.get("work_tokens_per_session") or 0.0
    if not whole or not per_session:
        return {}
    workload = record.manifest.workload
    yearly_tokens = {n: sessions * per_session * t / whole for n, t in window_tokens.items()}
    cached = workload.n_cached / (workload.n_new + workload.n_out) if workload.n_new else 0.0
    yearly_tokens["cached"] = sessions * per_session * cached
    times = {
        "new": sum(v for name, v in seconds.items() if name.startswith("prefill")),
        "out": seconds.get("decode", 0.0),
        "cached": seconds.get("kv", 0.0),
    }
    found = cost.allocated_by_class(yearly, times, yearly_tokens)
    result = {f"allocated_{name}": value for name, value in found.items()}
    out = yearly_tokens["out"]
    result["loaded_out"] = 1e6 * yearly.total / out if out > 0 else None
    return result


def _agents(record: Record, book: PriceBook | None) -> tuple[float | None, str]:
    """daily_active_agents, or its reason code: capacity scenario at scale (1, 1, 1) only."""
    m = record.manifest
    if m.status != "done":
        return None, "cell_failed"
    if m.scenario != "capacity":
        return None, "not_capacity_scenario"
    if m.workload.scale != ("1", "1", "1"):
        return None, "scale_not_1"
    if book is None:
        return None, "no_price_book"
    if not whole_unit(record):
        return None, "unit_partly_used"
    demand = book.demand
    if demand.sessions_per_agent_day is None:
        return None, "no_demand"
    rate = record.metrics.values.get("sessions_per_hour")
    if not rate:
        return None, record.metrics.null_reasons.get("sessions_per_hour", "no_sessions")
    headroom = demand.headroom.value if demand.headroom is not None else 0.7
    peak = demand.peak_share.value if demand.peak_share is not None else 0.15
    agents = cost.daily_active_agents(rate, headroom, demand.sessions_per_agent_day.value, peak)
    return agents, "" if agents is not None else "zero_denominator"
