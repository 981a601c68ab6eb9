"""Which numbers of a book enter a result, and which of them nobody sourced."""

from __future__ import annotations

from pathlib import Path

import pytest

from chipmark.errors import BadInputError
from chipmark.prices.book import EXAMPLE, PriceBook, load_book
from chipmark.prices.inputs import agent_inputs, cost_inputs

BOOK = load_book(EXAMPLE)


def fields(**changes: object) -> set[str]:
    asked = {"capacity": True, "scope": "board", **changes}
    entry = BOOK.match("nvidia-h200-sxm", "card")
    assert entry is not None
    return {i.field for i in cost_inputs(BOOK, entry, **asked)}


def test_a_bought_unit_takes_site_demand_and_its_own_entry() -> None:
    assert fields() == {
        "site.availability", "site.life_years", "site.discount_rate", "site.residual",
        "site.maintenance", "site.tariff_per_kwh", "site.pue", "site.psu_efficiency",
        "demand.utilisation", "nvidia-h200-sxm.purchase", "nvidia-h200-sxm.host_share",
        "nvidia-h200-sxm.host_w",
    }  # fmt: skip


def test_what_does_not_enter_is_not_listed() -> None:
    assert "demand.utilisation" not in fields(capacity=False)
    assert fields() - fields(scope="wall") == {"site.psu_efficiency", "nvidia-h200-sxm.host_w"}
    assert fields(scope="wall") - fields(scope="facility") == {"site.pue"}
    assert fields(scope="facility") - fields(scope=None) == {"site.tariff_per_kwh"}


def test_rent_takes_no_capital() -> None:
    document = BOOK.model_dump(by_alias=True)
    price = {"value": 2.0, "unit": "USD/h", "source": "quote", "date": "2026", "confidence": "H"}
    document["unit"] = [{"name": "cloud", "chips": ["*"], "unit": "card", "rent_per_hour": price}]
    book = PriceBook.model_validate(document)
    found = cost_inputs(book, book.units[0], capacity=True, scope=None)
    assert {i.field for i in found} == {
        "site.availability", "demand.utilisation", "cloud.rent_per_hour",
    }  # fmt: skip


def test_defaults_of_the_definitions_are_assumed_until_they_are_given() -> None:
    book = BOOK.model_copy(update={"demand": BOOK.demand.model_copy(update={"headroom": None})})
    found = {i.field: i for i in agent_inputs(book)}
    assert found["demand.headroom"].assumed
    assert found["demand.headroom"].quantity.value == 0.7
    assert found["demand.headroom"].to_dict()["source"] == "default of the definitions"


def test_an_input_keeps_its_provenance() -> None:
    entry = BOOK.match("nvidia-h200-sxm", "card")
    assert entry is not None
    found = {i.field: i for i in cost_inputs(BOOK, entry, capacity=True, scope="board")}
    assert found["nvidia-h200-sxm.host_w"].assumed
    assert not found["site.tariff_per_kwh"].assumed
    kept = found["site.tariff_per_kwh"].to_dict()
    assert (kept["value"], kept["low"], kept["high"]) == (0.08, 0.04, 0.12)
    assert kept["confidence"] == "M"


@pytest.mark.parametrize(("load", "named"), [("0", "above 0"), ("9", "not both")])
def test_a_load_is_given_once_and_is_one(tmp_path: Path, load: str, named: str) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    line = f'offered_sessions_per_hour = {{ value = {load}, unit = "1/h", source = "s", '
    line += 'date = "2026", confidence = "A" }'
    path = tmp_path / "book.toml"
    path.write_text(text.replace("[demand]", f"[demand]\n{line}", 1), encoding="utf-8")
    with pytest.raises(BadInputError, match=named):
        load_book(path)
