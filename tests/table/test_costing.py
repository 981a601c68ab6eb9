"""Money in a row, worked by hand from the book."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chipmark.metrics.cost import capital_factor
from chipmark.prices.book import EXAMPLE, load_book
from chipmark.results.manifest import SweepPoint
from chipmark.results.record import Record
from chipmark.table.columns import NULL_REASONS
from chipmark.table.costing import break_even, power_at, price

Make = Callable[..., Record]
BOOK = load_book(EXAMPLE)
H200 = {"chip__name": "nvidia-h200-sxm"}
CPU = {"chip__unit": "cpu-share", "chip__used": 2, "chip__of": 2, "meter__scope": "cpu-share"}


def test_equal_n_costs_this_very_load_all_day(make_record: Make) -> None:
    record = make_record(watts=400.0, **H200)
    costing = price(record, BOOK)
    rate = record.metrics.values["sessions_per_hour"]
    site = BOOK.site_factors()
    capital = (35_000 + 10_000) * capital_factor(site)
    # 400 W of the board and 300 W of the host through the supply and the PUE; idle is not known.
    energy = 8760 * (700 / 0.94 * 1.3) / 1000 * 0.08
    sessions = 8760 * 0.98 * (rate or 0)
    assert costing.cost_per_session == pytest.approx((capital + energy) / sessions)
    assert costing.cost_per_mtok == pytest.approx((capital + energy) / sessions / 16 * 1e6)
    assert {"cost_at_this_load", "idle_as_load"} <= {code for code, _ in costing.notes}


def test_the_capacity_lane_pays_at_the_books_demand(make_record: Make) -> None:
    one, other = make_record(**H200), make_record(scenario="capacity", **H200)
    a, b = price(one, BOOK), price(other, BOOK)
    assert a.details["utilisation"] == 1.0
    assert b.details["utilisation"] == 0.4
    assert b.details["sessions_per_year"] == pytest.approx(a.details["sessions_per_year"] * 0.4)
    assert "load_as_full" in {code for code, _ in b.notes}


def test_power_is_taken_at_the_offered_load() -> None:
    def point(n: int, rate: float | None, watts: float | None) -> SweepPoint:
        return SweepPoint(
            concurrency=n, slo_attainment=1.0, turns=1, sessions_per_hour=rate, power_w=watts
        )

    sweep = (point(1, 10, 200), point(2, 20, 300), point(4, 30, 350), point(8, None, 400))
    assert power_at(sweep, 15) == pytest.approx(250)
    assert power_at(sweep, 5) == 200
    assert power_at(sweep, 31) is None
    assert power_at((), 5) is None


def test_a_cpu_share_costs_its_vcpus(make_record: Make) -> None:
    two, four = make_record(**CPU), make_record(**{**CPU, "chip__used": 4, "chip__of": 4})
    a, b = (price(r, BOOK).details["cost_per_year_parts"]["capital"] for r in (two, four))
    assert b == pytest.approx(2 * a)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "no_price"),
        ({**H200, "chip__of": 2}, "unit_partly_used"),
        ({**H200, "meter": None}, "not_measured"),
        ({**H200, "meter__scope": "sim"}, "scope_without_facility"),
        ({**H200, "workload__scale": ["1/4", "1/4", "1/10"]}, "tool_time_scaled"),
        ({**H200, "status": "failed", "load": None}, "cell_failed"),
    ],
)
def test_a_cost_that_is_not_known_has_its_reason(
    make_record: Make, changes: dict[str, object], reason: str
) -> None:
    costing = price(make_record(**changes), BOOK)
    assert costing.cost_per_session is None
    assert costing.reasons["cost_per_session"] == reason
    assert costing.reasons["cost_per_mtok"] == reason
    assert set(costing.reasons.values()) <= set(NULL_REASONS)


def test_without_a_book_there_is_no_money(make_record: Make) -> None:
    costing = price(make_record(**H200), None)
    assert costing.reasons["cost_per_session"] == "no_price_book"


def test_agents_are_served_in_the_capacity_lane_at_full_scale_only(make_record: Make) -> None:
    full = {"scenario": "capacity", "workload__scale": ["1", "1", "1"]}
    record = make_record(**H200, **full)
    rate = record.metrics.values["sessions_per_hour"] or 0
    assert price(record, BOOK).daily_active_agents == pytest.approx(rate * 0.7 / (20 * 0.15))
    quick = price(make_record(**H200, scenario="capacity"), BOOK)
    assert quick.reasons["daily_active_agents"] == "scale_not_1"
    equal = price(make_record(**H200), BOOK)
    assert equal.reasons["daily_active_agents"] == "not_capacity_scenario"


def test_break_even_against_itself_is_its_own_price(make_record: Make) -> None:
    costing = price(make_record(scenario="capacity", **H200), BOOK)
    assert break_even(costing, costing) == pytest.approx(35_000)
    slower = price(make_record(2.0, scenario="capacity", **H200), BOOK)
    below = break_even(slower, costing)
    assert below is not None
    assert below < 35_000 / 2
