"""Money in a row, worked by hand from the book."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chipmark.codes import NullReason
from chipmark.metrics.cost import capital_factor
from chipmark.prices.book import EXAMPLE, PriceBook, load_book
from chipmark.results.manifest import SweepPoint
from chipmark.results.record import Record
from chipmark.table.cells import people_text
from chipmark.table.costing import MONEY, break_even, power_at, price
from chipmark.table.rows import build_rows

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


def test_the_capacity_scenario_pays_at_the_books_demand(make_record: Make) -> None:
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
    assert set(costing.reasons.values()) <= set(NullReason)


def test_without_a_book_there_is_no_money(make_record: Make) -> None:
    costing = price(make_record(**H200), None)
    assert costing.reasons["cost_per_session"] == "no_price_book"


def test_agents_are_served_in_the_capacity_scenario_at_full_scale_only(make_record: Make) -> None:
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
    assert break_even(costing, costing, ()).price == pytest.approx(35_000)
    slower = price(make_record(2.0, scenario="capacity", **H200), BOOK)
    below = break_even(slower, costing, ()).price
    assert below is not None
    assert below < 35_000 / 2


def test_break_even_is_refused_whatever_the_numbers_are(make_record: Make) -> None:
    costing = price(make_record(scenario="capacity", **H200), BOOK)
    found = break_even(costing, costing, ("another scale",))
    assert (found.price, found.reason) == (None, "not_comparable")
    assert found.refusals == ("another scale",)


def test_a_chip_that_is_too_slow_even_for_nothing_says_so(make_record: Make) -> None:
    patient = {"scenario": "capacity", "slo": {"tpot_s": 1.0}, **H200}
    costing = price(make_record(**patient), BOOK)
    slower = price(make_record(9.0, **patient), BOOK)
    found = break_even(slower, costing, ())
    assert (found.price, found.reason) == (None, "never_breaks_even")
    assert found.reason in set(NullReason)


def edited(change: Callable[[dict[str, Any]], None]) -> PriceBook:
    document = BOOK.model_dump(by_alias=True)
    change(document)
    return PriceBook.model_validate(document)


def quantity(value: float, confidence: str = "H") -> dict[str, Any]:
    return {
        "value": value, "unit": "u", "source": "quote", "date": "2026", "confidence": confidence,
    }  # fmt: skip


def test_a_chip_without_a_price_still_has_a_break_even_price(make_record: Make) -> None:
    def no_price(document: dict[str, Any]) -> None:
        unit = next(u for u in document["unit"] if u["name"] == "nvidia-h100-sxm")
        unit["purchase"] = None

    book = edited(no_price)
    base = make_record(scenario="capacity", **H200)
    other = make_record(1.2, backend="b:1", scenario="capacity", chip__name="nvidia-h100-sxm")
    row = build_rows([base, other], book, rank_by="cost_per_session")[1]
    assert row.null_reasons["cost_per_session"] == "no_price"
    found = row.details["break_even_chip_price"]
    assert found is not None
    entry = book.match("nvidia-h200-sxm", "card")
    assert entry is not None
    assert entry.purchase is not None
    assert 0 < found < entry.purchase.value


@pytest.mark.parametrize("met_in_sweep", [None, 4])
def test_a_missed_objective_has_no_price_and_no_agents(
    make_record: Make, met_in_sweep: int | None
) -> None:
    record = make_record(
        20.0, scenario="capacity", capacity={"concurrency": met_in_sweep, "cut": False},
        workload__scale=["1", "1", "1"], **H200,
    )  # fmt: skip
    costing = price(record, BOOK)
    assert dict.fromkeys(MONEY, "slo_not_met") == costing.reasons
    assert costing.cost_per_session is None
    assert costing.daily_active_agents is None


def test_a_cut_sweep_prints_bounds(make_record: Make) -> None:
    record = make_record(
        scenario="capacity", capacity={"concurrency": 16, "cut": True}, concurrency=16,
        workload__scale=["1", "1", "1"], **H200,
    )  # fmt: skip
    (row,) = build_rows([record], BOOK, rank_by="cost_per_session")
    assert row.rank is None
    assert people_text(row, "sessions_per_hour").startswith("≥")
    assert people_text(row, "daily_active_agents").startswith("≥~")
    assert people_text(row, "cost_per_session").startswith("≤~")
    assert row.details["break_even_chip_price"] is None


def test_the_same_load_is_served_by_whole_units(make_record: Make) -> None:
    record = make_record(scenario="capacity", **H200)
    rate = record.metrics.values["sessions_per_hour"] or 0

    def load(times: float) -> Callable[[dict[str, Any]], None]:
        def change(document: dict[str, Any]) -> None:
            document["demand"]["utilisation"] = None
            document["demand"]["offered_sessions_per_hour"] = quantity(times * rate)

        return change

    for times, units in ((0.5, 1), (1.0, 1), (2.0, 2), (2.5, 3)):
        details = price(record, edited(load(times))).details
        assert details["units"] == units
        assert details["utilisation"] == pytest.approx(times / units)


def test_power_in_a_hosting_that_has_no_price_is_not_free(make_record: Make) -> None:
    def hosted(document: dict[str, Any]) -> None:
        document["site"]["power_in_hosting"] = True

    record = make_record(scenario="capacity", **H200)
    assert price(record, edited(hosted)).reasons["cost_per_session"] == "no_hosting_price"

    def paid(document: dict[str, Any]) -> None:
        hosted(document)
        document["site"]["hosting_per_kw_month"] = quantity(150)
        for unit in document["unit"]:
            unit["provisioned_kw"] = quantity(1.0)

    costing = price(record, edited(paid))
    assert costing.details["cost_per_year_parts"]["hosting"] == pytest.approx(12 * 150)
    assert costing.power_enters is False


def test_the_meter_of_a_machine_prices_no_share_of_it(make_record: Make) -> None:
    share = make_record(**{**CPU, "meter__scope": "package"})
    assert price(share, BOOK).reasons["cost_per_session"] == "unit_partly_used"
    (row,) = build_rows([share], BOOK)
    for name in ("tok_per_joule", "joule_per_session", "power_w"):
        assert row.values[name] is None
        assert row.null_reasons[name] == "unit_partly_used"
    assert "unit_partly_used" in {note["code"] for note in row.values["notes"]}


def test_a_slice_of_a_card_is_not_charged_as_the_card(make_record: Make) -> None:
    record = make_record(chip__identity={"mig": True}, **H200)
    assert price(record, BOOK).reasons["cost_per_session"] == "unit_partly_used"
    assert "energy" not in build_rows([record], BOOK)[0].values["comparable"]


def test_a_simulated_card_has_a_made_up_price(make_record: Make) -> None:
    record = make_record(
        backend="sim:golden", chip__name="sim-golden", meter__scope="sim", scenario="capacity"
    )
    assert price(record, BOOK).cost_per_session is not None


def sourced(document: dict[str, Any]) -> None:
    """Every number of the unit's entry is a quote; site and demand stay as they are."""
    for unit in document["unit"]:
        for name, value in unit.items():
            if isinstance(value, dict):
                unit[name] = value | {"confidence": "H"}


def test_assumptions_of_site_and_demand_are_noted_and_marked(make_record: Make) -> None:
    full = {"scenario": "capacity", "workload__scale": ["1", "1", "1"]}
    (row,) = build_rows([make_record(**H200, **full)], edited(sourced))
    note = next(n["text"] for n in row.values["notes"] if n["code"] == "price_assumed")
    for field in (
        "site.discount_rate", "site.availability", "site.maintenance", "demand.utilisation",
        "demand.sessions_per_agent_day", "demand.headroom", "demand.peak_share",
    ):  # fmt: skip
        assert field in note
    for name in MONEY:
        assert people_text(row, name).startswith("~")
    kept = {i["field"]: i for i in row.details["prices"]["inputs"]}
    assert kept["site.tariff_per_kwh"]["source"].startswith("disintermediate")
    assert kept["nvidia-h200-sxm.purchase"]["confidence"] == "H"


def test_what_is_sourced_throughout_has_no_mark(make_record: Make) -> None:
    def all_sourced(document: dict[str, Any]) -> None:
        sourced(document)
        for part in ("site", "demand"):
            for name, value in document[part].items():
                if isinstance(value, dict):
                    document[part][name] = value | {"confidence": "H"}

    full = {"scenario": "capacity", "workload__scale": ["1", "1", "1"]}
    (row,) = build_rows([make_record(**H200, **full)], edited(all_sourced))
    assert "price_assumed" not in {note["code"] for note in row.values["notes"]}
    for name in MONEY:
        assert people_text(row, name)[0].isdigit()


@pytest.mark.parametrize("source", ["declared", "assumed"])
def test_a_cost_from_power_that_nobody_measured_is_not_ranked(
    make_record: Make, source: str
) -> None:
    records = [
        make_record(scenario="capacity", **H200),
        make_record(0.5, backend="b:1", scenario="capacity", meter__source=source, **H200),
    ]
    rows = build_rows(records, BOOK, rank_by="cost_per_session")
    assert [row.rank for row in rows] == [1, None]
    assert rows[1].values["comparable"] == ["perf"]
    assert f"the energy in the cost is {source}" in rows[1].details["not_ranked"]
    assert rows[1].details["break_even_chip_price"] is None
    assert people_text(rows[1], "cost_per_session").startswith("~")


def test_rent_needs_no_meter(make_record: Make) -> None:
    def rented(document: dict[str, Any]) -> None:
        document["unit"] = [
            {"name": "cloud", "chips": ["*"], "unit": "card", "rent_per_hour": quantity(2.0)}
        ]

    records = [
        make_record(scenario="capacity", **H200),
        make_record(1.5, backend="b:1", scenario="capacity", meter=None, **H200),
    ]
    rows = build_rows(records, edited(rented), rank_by="cost_per_session")
    assert [row.rank for row in rows] == [1, 2]
    assert rows[1].details["break_even_null_reason"] == "rented"


def test_no_price_stands_on_a_capacity_of_the_first_definitions(make_record: Make) -> None:
    """chipmark.metrics/1 had the sessions an hour off by their number: cost per session with it."""
    record = make_record(scenario="capacity", workload__scale=["1", "1", "1"], **H200)
    assert price(record, BOOK).cost_per_session is not None
    old = record.metrics.model_copy(update={"schema_": "chipmark.metrics/1"})
    costing = price(record.model_copy(update={"metrics": old}), BOOK)
    assert (costing.cost_per_session, costing.daily_active_agents) == (None, None)
    assert set(costing.reasons.values()) == {"not_in_schema_1"}
    (row,) = build_rows([record.model_copy(update={"metrics": old})], BOOK)
    assert row.null_reasons["sessions_per_hour"] == "not_in_schema_1"
