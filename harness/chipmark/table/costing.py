"""A record and a price book to money: cost of a session and of tokens, agents a unit serves.

In the `equal_n` scenario the cost is that of this very load, all day (on all year, utilisation 1);
it is printed with `~` and never ranked. In the `capacity` scenario the load is the book's demand,
and power is taken at the offered load out of the sweep over N; where the measured repeats miss the
objective there is no capacity, and so no price.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from chipmark.codes import NoteCode, NullReason
from chipmark.metrics import cost
from chipmark.prices.book import PriceBook, UnitEntry
from chipmark.prices.inputs import Input, agent_inputs, cost_inputs
from chipmark.results.manifest import SweepPoint
from chipmark.results.record import Record
from chipmark.table.capacity import of_first_definitions, slo_missed
from chipmark.table.comparable import Money, is_simulated
from chipmark.table.units import all_devices_used, meters_more_than_unit

MoneyColumn = Literal["cost_per_session", "cost_per_mtok", "daily_active_agents"]
COSTS: tuple[MoneyColumn, ...] = ("cost_per_session", "cost_per_mtok")
AGENTS: MoneyColumn = "daily_active_agents"
MONEY: tuple[MoneyColumn, ...] = (*COSTS, AGENTS)


@dataclass(frozen=True, slots=True)
class Basis:
    """What a break-even needs of a bought unit: sessions a year, and what they cost apart from
    the chip. `price.chip` may be unknown."""

    sessions_a_year: float
    site: cost.Site
    price: cost.UnitPrice
    energy: float


@dataclass(frozen=True, slots=True)
class Costing:
    """A record's money, in the book's currency."""

    cost_per_session: float | None = None
    """Of one session."""
    cost_per_mtok: float | None = None
    """Of a million work tokens."""
    daily_active_agents: float | None = None
    """Agents that a unit serves a day."""
    reasons: dict[str, str] = field(default_factory=dict)
    """A code for each of the three numbers that is None."""
    notes: tuple[tuple[NoteCode, str], ...] = ()
    """(code, text) of each remark."""
    details: dict[str, Any] = field(default_factory=dict)
    """Inputs with their provenance, and parts of the cost."""
    basis: Basis | None = None
    """None where the unit is rented or its yearly cost is not known."""
    power_enters: bool = True
    """Whether the row's own power is in the cost."""
    energy_share: float = 0.0
    """The part of the cost that is energy's."""
    assumed: dict[MoneyColumn, tuple[str, ...]] = field(default_factory=dict)
    """For each number, the inputs without a source."""

    @property
    def money(self) -> Money:
        """What comparing needs of it."""
        return Money(self.cost_per_session is not None, self.power_enters)


@dataclass(frozen=True, slots=True)
class BreakEven:
    """A chip price, or the reason code why there is none; `refusals` in words."""

    price: float | None
    reason: str
    refusals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Agents:
    value: float | None
    reason: str
    inputs: tuple[Input, ...] = ()


@dataclass(frozen=True, slots=True)
class _Load:
    """Units that serve the offered load, and how much of a unit's capacity it takes."""

    units: int | None
    utilisation: float


def price(record: Record, book: PriceBook | None) -> Costing:
    """Cost of a record's cell by a book."""
    agents = _agents(record, book)
    if book is None:
        return _without(NullReason.NO_PRICE_BOOK, agents)
    if record.manifest.status != "done":
        return _without(NullReason.CELL_FAILED, agents)
    if slo_missed(record):
        return _without(NullReason.SLO_NOT_MET, agents)
    if of_first_definitions(record):
        return _without(NullReason.NOT_IN_SCHEMA_1, agents)
    if not all_devices_used(record):
        return _without(NullReason.UNIT_PARTLY_USED, agents)
    entry = book.match(record.manifest.chip.name, record.manifest.chip.unit)
    if entry is None:
        return _without(NullReason.NO_PRICE, agents)
    rate = record.metrics.values.get("sessions_per_hour")
    if not rate:
        reason = record.metrics.null_reasons.get("sessions_per_hour", NullReason.NO_SESSIONS)
        return _without(reason, agents)
    capacity = record.manifest.scenario == "capacity"
    load = _load(book, rate) if capacity else _Load(None, 1.0)
    if load is None:
        return _without(NullReason.NO_DEMAND, agents)
    if entry.rent_per_hour is None and book.site.power_in_hosting and not _hosted(book, entry):
        # The cost of power would be left out.
        return _without(NullReason.NO_HOSTING_PRICE, agents)
    return _priced(record, book, entry, rate, load, agents)


def _priced(
    record: Record,
    book: PriceBook,
    entry: UnitEntry,
    rate: float,
    load: _Load,
    agents: _Agents,
) -> Costing:
    capacity = record.manifest.scenario == "capacity"
    site = book.site_factors()
    if not capacity:
        site = replace(site, on_share=1.0)
    notes: list[tuple[NoteCode, str]] = []
    power_enters = entry.rent_per_hour is None and not site.power_in_hosting
    energy, reason = 0.0, ""
    if power_enters:
        found, reason = _energy(record, entry, site, load.utilisation * rate, notes)
        if found is None:
            return replace(_without(reason, agents), power_enters=True)
        energy = found
    unit = entry.price(record.manifest.chip.used)
    sessions = cost.yearly_sessions(site, rate, load.utilisation)
    basis = None if unit.rent_per_hour is not None else Basis(sessions, site, unit, energy)
    if unit.chip is None and unit.rent_per_hour is None:
        return replace(
            _without(NullReason.NO_PRICE, agents), basis=basis, power_enters=power_enters
        )
    yearly = cost.yearly_cost(site, unit, energy)
    tokens = record.metrics.details.get("work_tokens_per_session") or 0.0
    scope = _scope(record) if power_enters else None
    inputs = cost_inputs(book, entry, capacity=capacity, scope=scope)
    if not capacity:
        notes.append((NoteCode.COST_AT_THIS_LOAD, "cost at this very load, all day; not ranked"))
    entered = tuple({i.field: i for i in (*inputs, *agents.inputs)}.values())
    if assumed := _assumed(entered):
        notes.append((NoteCode.PRICE_ASSUMED, f"{book.name}: {', '.join(assumed)}"))
    per_mtok = cost.cost_per_mtok(yearly, sessions, tokens)
    reasons: dict[str, str] = {} if agents.value is not None else {AGENTS: agents.reason}
    if per_mtok is None:
        reasons["cost_per_mtok"] = NullReason.ZERO_DENOMINATOR
    return Costing(
        cost_per_session=cost.cost_per_session(yearly, sessions),
        cost_per_mtok=per_mtok,
        daily_active_agents=agents.value,
        reasons=reasons,
        notes=tuple(notes),
        details={
            "prices": {
                "book": book.name, "date": book.date, "vat": book.vat, "entry": entry.name,
                "currency": book.currency, "inputs": [i.to_dict() for i in entered],
            },
            "units": load.units,
            "utilisation": load.utilisation,
            "sessions_per_year": sessions,
            "cost_per_year": yearly.total,
            "cost_per_year_parts": {
                "capital": yearly.capital, "energy": yearly.energy, "hosting": yearly.hosting,
                "software": yearly.software, "staff": yearly.staff, "rent": yearly.rent,
            },
            "cost_by_class": _by_class(record, yearly, sessions),
        },
        basis=basis,
        power_enters=power_enters,
        energy_share=energy / yearly.total if yearly.total > 0 else 0.0,
        assumed={name: _assumed(inputs) for name in COSTS} | {AGENTS: _assumed(agents.inputs)},
    )  # fmt: skip


def break_even(costing: Costing, reference: Costing, refusals: Sequence[str]) -> BreakEven:
    """The chip price at which this row's session costs what the reference's does.

    refusals: of `comparable.break_even_refusals`; with any there is no such price, whatever the
    numbers are. Linear, so that "wins below this price" is true of every lower one.
    """
    if refusals:
        return BreakEven(None, NullReason.NOT_COMPARABLE, tuple(refusals))
    if costing.basis is None:
        return BreakEven(None, costing.reasons.get("cost_per_session", NullReason.RENTED))
    if reference.cost_per_session is None:
        return BreakEven(None, reference.reasons.get("cost_per_session", NullReason.UNKNOWN))
    basis = costing.basis
    found = cost.break_even_chip_price(
        reference.cost_per_session, basis.sessions_a_year, basis.site, basis.price, basis.energy
    )
    return BreakEven(found, "" if found is not None else NullReason.NEVER_BREAKS_EVEN)


def _without(reason: str, agents: _Agents) -> Costing:
    reasons: dict[str, str] = dict.fromkeys(COSTS, reason)
    if agents.value is None:
        reasons[AGENTS] = agents.reason
    assumed = _assumed(agents.inputs)
    note = ((NoteCode.PRICE_ASSUMED, f"for {AGENTS}: {', '.join(assumed)}"),) if assumed else ()
    return Costing(
        daily_active_agents=agents.value,
        reasons=reasons,
        notes=note,
        assumed={AGENTS: assumed},
    )


def _assumed(inputs: Sequence[Input]) -> tuple[str, ...]:
    return tuple(i.field for i in inputs if i.assumed)


def _hosted(book: PriceBook, entry: UnitEntry) -> bool:
    return book.site.hosting_per_kw_month is not None and entry.provisioned_kw is not None


def _load(book: PriceBook, rate: float) -> _Load | None:
    """The book's load on units of `rate` sessions an hour; None where it names none.

    n = whole units for the offered load L, u = L / (n X); of a book that gives u itself the
    number of units is whatever one load needs.
    """
    demand = book.demand
    if demand.offered_sessions_per_hour is not None:
        offered = demand.offered_sessions_per_hour.value
        # A billionth: a load of just n units needs no further one.
        units = max(1, math.ceil(offered / rate - 1e-9))
        return _Load(units, offered / (units * rate))
    if demand.utilisation is not None:
        return _Load(None, demand.utilisation.value)
    return None


def _scope(record: Record) -> str | None:
    """The meter's scope as facility power takes it: a simulated card is a board."""
    meter = record.manifest.meter
    if meter is None:
        return None
    return "board" if meter.scope == "sim" and is_simulated(record) else meter.scope


def _energy(
    record: Record,
    entry: UnitEntry,
    site: cost.Site,
    offered_per_hour: float,
    notes: list[tuple[NoteCode, str]],
) -> tuple[float | None, str]:
    """Energy cost of a year, or the reason why it is not known."""
    scope = _scope(record)
    power_w = record.metrics.values.get("power_w")
    if scope is None or power_w is None:
        return None, record.metrics.null_reasons.get("power_w", NullReason.NOT_MEASURED)
    if meters_more_than_unit(record):
        return None, NullReason.UNIT_PARTLY_USED
    if record.manifest.scenario == "capacity":
        at_load = power_at(record.manifest.sweep, offered_per_hour)
        if at_load is None:
            notes.append((NoteCode.LOAD_AS_FULL, "power at the offered load is not in the sweep"))
        else:
            power_w = at_load
    host_w = entry.host_power_w(record.manifest.chip.used)
    load_w, reason = cost.facility_power(power_w, scope, site, host_w)
    if load_w is None:
        return None, reason
    idle = record.metrics.energy.get("idle_w")
    idle_w: float | None = load_w
    if idle:
        idle_w, reason = cost.facility_power((idle[0] + idle[1]) / 2, scope, site, host_w)
    elif site.availability < 1:
        notes.append((NoteCode.IDLE_AS_LOAD, "power at idle is not known"))
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


def _agents(record: Record, book: PriceBook | None) -> _Agents:
    """daily_active_agents, or its reason code: capacity scenario at scale (1, 1, 1) only."""
    m = record.manifest
    if m.status != "done":
        return _Agents(None, NullReason.CELL_FAILED)
    if m.scenario != "capacity":
        return _Agents(None, NullReason.NOT_CAPACITY_SCENARIO)
    if m.workload.scale != ("1", "1", "1"):
        return _Agents(None, NullReason.SCALE_NOT_1)
    if book is None:
        return _Agents(None, NullReason.NO_PRICE_BOOK)
    if slo_missed(record):
        return _Agents(None, NullReason.SLO_NOT_MET)
    if of_first_definitions(record):
        return _Agents(None, NullReason.NOT_IN_SCHEMA_1)
    if not all_devices_used(record):
        return _Agents(None, NullReason.UNIT_PARTLY_USED)
    inputs = agent_inputs(book)
    given = {i.field: i.quantity.value for i in inputs}
    if "demand.sessions_per_agent_day" not in given:
        return _Agents(None, NullReason.NO_DEMAND)
    rate = record.metrics.values.get("sessions_per_hour")
    if not rate:
        return _Agents(
            None, record.metrics.null_reasons.get("sessions_per_hour", NullReason.NO_SESSIONS)
        )
    agents = cost.daily_active_agents(
        rate,
        given["demand.headroom"],
        given["demand.sessions_per_agent_day"],
        given["demand.peak_share"],
    )
    return _Agents(agents, "" if agents is not None else NullReason.ZERO_DENOMINATOR, inputs)
