"""Cost of a simulated cell at its own load, from the price book's text and DEFINITIONS by hand.

At the load that was measured, all year: C / Y with C = CAPEX (CRF - rho SFF + m) + E + H + S + O
and Y = 8760 a X; the device's power is a board's, so the host's rest, the supply's losses and the
PUE come on top of it, once each.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

HOURS = 8760


def expected_cost(
    book: Path, chip: str, *, watts: float, sessions_per_hour: float, tokens_per_session: float
) -> dict[str, float]:
    """`cost_per_session` and `cost_per_mtok` in the book's currency; {} where it has no price."""
    text: dict[str, Any] = tomllib.loads(book.read_text(encoding="utf-8"))
    unit = next((u for u in text["unit"] if chip in u["chips"] and u["unit"] == "card"), None)
    if unit is None or "purchase" not in unit or "host_w" not in unit:
        return {}
    site = text["site"]

    def number(table: dict[str, Any], name: str, absent: float = 0.0) -> float:
        return float(table[name]["value"]) if name in table else absent

    rate, years = number(site, "discount_rate"), number(site, "life_years")
    annuity = 1 / years if rate == 0 else rate / (1 - (1 + rate) ** -years)
    factor = annuity - number(site, "residual") * (annuity - rate) + number(site, "maintenance")
    capital = number(unit, "purchase") * (1 + number(site, "tax") + number(site, "duty"))
    capital += number(unit, "host_share")
    facility_w = (watts + number(unit, "host_w")) / number(site, "psu_efficiency")
    facility_w *= number(site, "pue")
    energy = HOURS * facility_w / 1000 * number(site, "tariff_per_kwh")
    if site.get("power_in_hosting"):
        energy = 0.0
    hosting = 12 * number(site, "hosting_per_kw_month") * number(unit, "provisioned_kw")
    other = number(unit, "software_year") + number(unit, "staff_year")
    year = capital * factor + energy + hosting + other
    sessions = HOURS * number(site, "availability") * sessions_per_hour
    return {
        "cost_per_session": year / sessions,
        "cost_per_mtok": 1e6 * year / (sessions * tokens_per_session),
    }
