"""Cost of a unit and year, of a session, of tokens; the break-even price of a chip.

The formulas are those of DEFINITIONS, section Cost: capital recovery over the life, energy at
the facility's meter, hosting, software and staff; utilisation comes from offered load. Money is
in the price book's currency; power in watts; rates r, rho, m are fractions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from chipmark.codes import NullReason

HOURS_A_YEAR = 8760.0


@dataclass(frozen=True, slots=True)
class Site:
    """Where and how a unit runs.

    tariff: currency per kWh. pue: facility power over IT power. psu_efficiency: DC over AC power
    of the server's supply. on_share: share of the year it is on (f_on). availability: share of
    that in which it serves (a). power_in_hosting: hosting includes electricity, so E = 0.
    """

    tariff: float
    pue: float
    psu_efficiency: float = 1.0
    on_share: float = 1.0
    availability: float = 1.0
    discount_rate: float = 0.0
    life_years: float = 5.0
    residual: float = 0.0
    maintenance: float = 0.0
    tax: float = 0.0
    duty: float = 0.0
    hosting_per_kw_month: float = 0.0
    power_in_hosting: bool = False


@dataclass(frozen=True, slots=True)
class UnitPrice:
    """What one unit costs: bought (chip and the share of its host, network, rack, install) or
    rented by the hour. provisioned_kw: power that hosting is billed for."""

    chip: float | None = None
    host_share: float = 0.0
    rent_per_hour: float | None = None
    rented_share: float = 1.0
    provisioned_kw: float = 0.0
    software_year: float = 0.0
    staff_year: float = 0.0


@dataclass(frozen=True, slots=True)
class YearlyCost:
    """Currency a year: capital and maintenance, energy, hosting, software, staff; or rent."""

    capital: float
    energy: float
    hosting: float
    software: float
    staff: float
    rent: float = 0.0

    @property
    def total(self) -> float:
        """C."""
        return self.capital + self.energy + self.hosting + self.software + self.staff + self.rent


def capital_recovery_factor(rate: float, years: float) -> float:
    """CRF = -r / expm1(-n log1p(r)), and 1/n at r = 0: the yearly payment for one unit of money."""
    if years <= 0 or rate <= -1:
        raise ValueError(f"no payment over {years} years at a rate of {rate}")
    return 1.0 / years if rate == 0 else -rate / math.expm1(-years * math.log1p(rate))


def capital_factor(site: Site) -> float:
    """CRF - rho x SFF + m, with SFF = CRF - r: what a year takes of one unit of capital."""
    crf = capital_recovery_factor(site.discount_rate, site.life_years)
    return crf - site.residual * (crf - site.discount_rate) + site.maintenance


def capex(site: Site, price: UnitPrice) -> float:
    """Capital of a bought unit: the chip with tax and duty, and its share of the rest."""
    if price.chip is None:
        raise ValueError("the unit is not bought")
    return price.chip * (1 + site.tax + site.duty) + price.host_share


def facility_power(
    power_w: float, scope: str, site: Site, host_w: float | None
) -> tuple[float | None, str]:
    """(watts at the facility's meter, "") or (None, reason).

    Each factor once: a board's watts get the host's, the supply's losses and the PUE; a node's
    DC watts the losses and the PUE; wall watts the PUE; a facility's nothing. A share of a CPU, a
    package or a die is treated as a board: `host_w` is the rest of its node.
    """
    if scope == "facility":
        return power_w, ""
    if scope == "wall":
        return power_w * site.pue, ""
    if scope == "node_dc":
        return power_w / site.psu_efficiency * site.pue, ""
    if scope in ("board", "die", "package", "cpu-share"):
        if host_w is None:
            return None, NullReason.HOST_POWER_MISSING
        return (power_w + host_w) / site.psu_efficiency * site.pue, ""
    return None, NullReason.SCOPE_WITHOUT_FACILITY


def yearly_energy_cost(site: Site, load_w: float, idle_w: float) -> float:
    """E = 8760 f_on [a P_load + (1 - a) P_idle] / 1000 x tariff; 0 where hosting includes it."""
    if site.power_in_hosting:
        return 0.0
    a = site.availability
    mean_w = a * load_w + (1 - a) * idle_w
    return HOURS_A_YEAR * site.on_share * mean_w / 1000 * site.tariff


def yearly_cost(site: Site, price: UnitPrice, energy: float) -> YearlyCost:
    """C of a unit; rent has no energy, hosting, software or staff of its own."""
    if price.rent_per_hour is not None:
        rent = HOURS_A_YEAR * price.rented_share * price.rent_per_hour
        return YearlyCost(0.0, 0.0, 0.0, 0.0, 0.0, rent)
    return YearlyCost(
        capital=capex(site, price) * capital_factor(site),
        energy=energy,
        hosting=12 * site.hosting_per_kw_month * price.provisioned_kw,
        software=price.software_year,
        staff=price.staff_year,
    )


def yearly_sessions(site: Site, sessions_per_hour: float, utilisation: float) -> float:
    """Y = 8760 f_on a u X."""
    return HOURS_A_YEAR * site.on_share * site.availability * utilisation * sessions_per_hour


def cost_per_session(cost: YearlyCost, sessions_a_year: float) -> float | None:
    """C / Y; None without sessions."""
    return cost.total / sessions_a_year if sessions_a_year > 0 else None


def cost_per_mtok(
    cost: YearlyCost, sessions_a_year: float, tokens_per_session: float
) -> float | None:
    """10^6 C / (Y x work tokens per session); None without tokens."""
    tokens = sessions_a_year * tokens_per_session
    return 1e6 * cost.total / tokens if tokens > 0 else None


def allocated_by_class(
    cost: YearlyCost, seconds: Mapping[str, float], tokens_a_year: Mapping[str, float]
) -> dict[str, float | None]:
    """C by share of device time, per million tokens of each class; the money sums to C.

    A class without device time or tokens is None: below resolution.
    """
    whole = sum(seconds.values())
    return {
        name: 1e6 * cost.total * seconds[name] / whole / tokens_a_year[name]
        if whole > 0 and seconds[name] > 0 and tokens_a_year.get(name, 0) > 0
        else None
        for name in seconds
    }


def break_even_chip_price(
    reference_cost_per_session: float,
    sessions_a_year: float,
    site: Site,
    price: UnitPrice,
    energy: float,
) -> float | None:
    """[(c* Y - E - H - S - O) / (CRF - rho SFF + m) - host share] / (1 + tax + duty).

    The price of the chip at which a session costs what it costs on the reference; None where
    that is not above zero ("no price").
    """
    hosting = 12 * site.hosting_per_kw_month * price.provisioned_kw
    left = reference_cost_per_session * sessions_a_year - energy - hosting
    left -= price.software_year + price.staff_year
    result = (left / capital_factor(site) - price.host_share) / (1 + site.tax + site.duty)
    return result if result > 0 else None


def daily_active_agents(
    sessions_per_hour: float, headroom: float, sessions_per_agent_day: float, peak_share: float
) -> float | None:
    """X headroom / (sessions per agent-day x share of the day in its peak hour)."""
    peak = sessions_per_agent_day * peak_share
    return sessions_per_hour * headroom / peak if peak > 0 else None
