"""The worked example of the cost facts, and the formulas at their edges."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chipmark.metrics import cost
from chipmark.metrics.cost import Site, UnitPrice

EXAMPLE = Site(tariff=0.08, pue=1.3, life_years=5, discount_rate=0.0)
CARD = UnitPrice(chip=45_000)
HOURS = cost.HOURS_A_YEAR


def hourly_capital(site: Site) -> float:
    return cost.yearly_cost(site, CARD, 0.0).capital / HOURS


def test_worked_example_45k_over_five_years() -> None:
    assert hourly_capital(EXAMPLE) == pytest.approx(1.03, abs=0.005)
    watts, _ = cost.facility_power(1000.0, "wall", EXAMPLE, None)
    assert watts == pytest.approx(1300.0)
    energy = cost.yearly_energy_cost(EXAMPLE, watts or 0.0, 0.0)
    assert energy / HOURS == pytest.approx(0.104)
    assert hourly_capital(replace(EXAMPLE, life_years=3)) == pytest.approx(1.71, abs=0.005)
    assert hourly_capital(replace(EXAMPLE, life_years=6)) == pytest.approx(0.86, abs=0.005)


def test_utilisation_divides_the_same_money() -> None:
    yearly = cost.yearly_cost(EXAMPLE, CARD, 0.0)
    dear = cost.cost_per_session(yearly, cost.yearly_sessions(EXAMPLE, 10.0, 0.3))
    cheap = cost.cost_per_session(yearly, cost.yearly_sessions(EXAMPLE, 10.0, 0.8))
    assert dear is not None
    assert cheap is not None
    assert dear / cheap == pytest.approx(8 / 3)


def test_capital_recovery_agrees_with_the_textbook_form_and_its_limit() -> None:
    r, n = 0.08, 5
    assert cost.capital_recovery_factor(r, n) == pytest.approx(
        r * (1 + r) ** n / ((1 + r) ** n - 1)
    )
    assert cost.capital_recovery_factor(0.0, 4) == 0.25
    assert cost.capital_recovery_factor(1e-12, 4) == pytest.approx(0.25)


def test_residual_value_is_paid_back_by_a_sinking_fund() -> None:
    site = replace(EXAMPLE, discount_rate=0.08, residual=1.0)
    # Sold for what it cost: only the interest is left.
    assert cost.capital_factor(site) == pytest.approx(0.08)


@pytest.mark.parametrize(
    ("scope", "watts"),
    [
        ("facility", 100.0),
        ("wall", 130.0),
        ("node_dc", 100 / 0.9 * 1.3),
        ("board", 150 / 0.9 * 1.3),
        ("cpu-share", 150 / 0.9 * 1.3),
    ],
)
def test_each_factor_of_facility_power_counts_once(scope: str, watts: float) -> None:
    site = replace(EXAMPLE, psu_efficiency=0.9)
    assert cost.facility_power(100.0, scope, site, 50.0) == (pytest.approx(watts), "")


def test_facility_power_without_the_hosts_is_unknown() -> None:
    assert cost.facility_power(100.0, "board", EXAMPLE, None) == (None, "host_power_missing")
    assert cost.facility_power(100.0, "sim", EXAMPLE, 5.0) == (None, "scope_without_facility")


def test_hosting_with_power_inside_has_no_energy() -> None:
    site = replace(EXAMPLE, power_in_hosting=True, hosting_per_kw_month=100.0)
    assert cost.yearly_energy_cost(site, 1000.0, 500.0) == 0.0
    price = replace(CARD, provisioned_kw=2.0)
    assert cost.yearly_cost(site, price, 0.0).hosting == 12 * 100 * 2


def test_unavailable_hours_draw_idle_power() -> None:
    site = replace(EXAMPLE, availability=0.9, on_share=0.5)
    mean = 0.9 * 1000 + 0.1 * 200
    assert cost.yearly_energy_cost(site, 1000.0, 200.0) == pytest.approx(
        8760 * 0.5 * mean / 1e3 * 0.08
    )


def test_rent_has_no_energy_of_its_own() -> None:
    price = UnitPrice(rent_per_hour=2.0, rented_share=0.5)
    assert cost.yearly_cost(EXAMPLE, price, 1234.0).total == 8760 * 0.5 * 2.0


def test_break_even_price_gives_the_references_cost_back() -> None:
    site = replace(EXAMPLE, tax=0.13, maintenance=0.05, discount_rate=0.08, residual=0.2)
    price = UnitPrice(chip=1.0, host_share=5000, software_year=100, staff_year=300)
    energy, sessions, reference = 700.0, 50_000.0, 0.35
    found = cost.break_even_chip_price(reference, sessions, site, price, energy)
    assert found is not None
    at_found = cost.yearly_cost(site, replace(price, chip=found), energy)
    assert cost.cost_per_session(at_found, sessions) == pytest.approx(reference)
    assert cost.break_even_chip_price(0.001, sessions, site, price, energy) is None


def test_allocated_costs_sum_to_the_whole() -> None:
    yearly = cost.yearly_cost(EXAMPLE, CARD, 0.0)
    seconds = {"new": 30.0, "out": 60.0, "cached": 10.0}
    tokens = {"new": 5e9, "out": 1e9, "cached": 9e9}
    parts = cost.allocated_by_class(yearly, seconds, tokens)
    money = sum((parts[name] or 0.0) * tokens[name] / 1e6 for name in parts)
    assert money == pytest.approx(yearly.total)
    below = cost.allocated_by_class(yearly, {**seconds, "cached": 0.0}, tokens)
    assert below["cached"] is None


def test_zero_denominators_give_nothing() -> None:
    yearly = cost.yearly_cost(EXAMPLE, CARD, 0.0)
    assert cost.cost_per_session(yearly, 0.0) is None
    assert cost.cost_per_mtok(yearly, 10.0, 0.0) is None
    assert cost.daily_active_agents(100.0, 0.7, 0.0, 0.15) is None
    assert cost.daily_active_agents(100.0, 0.7, 20.0, 0.15) == pytest.approx(70 / 3)
