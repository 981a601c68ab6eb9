from __future__ import annotations

from pathlib import Path

import pytest

from chipmark.errors import BadInputError
from chipmark.prices.book import EXAMPLE, PriceQuantity, load_book

TEXT = EXAMPLE.read_text(encoding="utf-8")


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "book.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_example_is_dated_and_every_number_has_its_source() -> None:
    book = load_book(EXAMPLE)
    assert (book.name, book.currency, book.vat) == ("example-2026", "USD", "excluded")
    quantities = [
        value
        for part in (book.site, book.demand, *book.units)
        for name in type(part).model_fields
        if isinstance(value := getattr(part, name), PriceQuantity)
    ]
    assert len(quantities) > 40
    assert all(q.source and q.date and q.unit for q in quantities)
    chips = {chip for entry in book.units for chip in entry.chips}
    assert {"nvidia-h200-sxm", "nvidia-h100-sxm", "nvidia-h20", "ascend-910b2"} <= chips


def test_every_chip_of_the_example_is_in_the_catalogue() -> None:
    from chipmark.chips.catalogue import catalogue

    known = set(catalogue().chips)
    chips = {chip for entry in load_book(EXAMPLE).units for chip in entry.chips} - {"*"}
    assert {chip for chip in chips if not chip.startswith("sim-")} <= known


def test_simulated_devices_have_prices_that_are_said_to_be_made_up() -> None:
    book = load_book(EXAMPLE)
    for chip in ("sim-golden", "sim-slow", "sim-pulsed"):
        entry = book.match(chip, "card")
        assert entry is not None
        assert entry.name == chip
        for quantity in (entry.purchase, entry.host_share, entry.host_w):
            assert quantity is not None
            assert "made up" in quantity.source
            assert quantity.confidence == "A"


def test_a_power_limit_behind_the_name_does_not_change_the_price() -> None:
    book = load_book(EXAMPLE)
    limited = book.match("nvidia-h200-sxm (400 W of 700 W)", "card")
    assert limited == book.match("nvidia-h200-sxm", "card") is not None


def test_a_chip_is_matched_by_name_and_unit() -> None:
    book = load_book(EXAMPLE)
    h200 = book.match("nvidia-h200-sxm", "card")
    assert h200 is not None
    assert h200.name == "nvidia-h200-sxm"
    assert book.match("nvidia-h200-sxm", "server") is None
    assert book.match("unheard-of", "card") is None


def test_a_share_of_a_cpu_is_priced_by_the_vcpu() -> None:
    entry = load_book(EXAMPLE).match("any-server-cpu", "cpu-share")
    assert entry is not None
    one, four = entry.price(1), entry.price(4)
    assert one.chip is not None
    assert four.chip == 4 * one.chip
    assert four.host_share == 4 * one.host_share
    assert entry.host_power_w(4) == 4 * (entry.host_power_w(1) or 0)


def test_a_card_is_priced_whole_whatever_its_dies() -> None:
    entry = load_book(EXAMPLE).match("ascend-910c", "card")
    assert entry is not None
    assert entry.price(2) == entry.price(1)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('currency = "USD"', 'currency = "dollars"', "currency"),
        ("tariff_per_kwh = ", "tarif_per_kwh = ", "tarif"),
        ("pue = { value = 1.3", "pue = { value = 0.9", "site"),
        ("low = 0.04, high = 0.12", "low = 0.10, high = 0.12", "tariff_per_kwh"),
        ("value = 0.08, low = 0.04", "value = -1, low = 0.04", "tariff_per_kwh"),
        ("value = 5, low = 3", "value = 0, low = 0", "life_years"),
        ('source = "assumption", date = "2026-11"', 'source = "", date = "2026-11"', "source"),
        ("residual = { value = 0, low = 0, high = 0.4", "residual = { value = 40", "residual"),
        (
            "discount_rate = { value = 0.08, low = 0, high = 0.12",
            "discount_rate = { value = 8",
            "discount_rate must be at most 1",
        ),
        (
            '"USD/kWh"',
            '"CNY/kWh"',
            "field 'site.tariff_per_kwh.unit': is in CNY, the book's currency is USD",
        ),
        ('"USD/vCPU"', '"EUR"', "field 'unit.server-cpu-vcpu.purchase.unit': is in EUR"),
        ('vat = "excluded"', 'vat = "maybe"', "vat"),
        ("[site]", "[site", "TOML"),
    ],
)
def test_a_bad_field_is_named_with_its_file(tmp_path: Path, old: str, new: str, named: str) -> None:
    assert old in TEXT
    path = written(tmp_path, TEXT.replace(old, new, 1))
    with pytest.raises(BadInputError, match=named) as caught:
        load_book(path)
    assert str(path) in str(caught.value)


def test_a_misspelt_field_has_its_nearest_name(tmp_path: Path) -> None:
    path = written(tmp_path, TEXT.replace("host_share = ", "host_shares = ", 1))
    with pytest.raises(BadInputError, match="host_share"):
        load_book(path)


def test_a_chip_is_priced_once(tmp_path: Path) -> None:
    unit = TEXT[TEXT.index('[[unit]]\nname = "nvidia-h20"') :]
    again = unit[: unit.index("\n\n")] + "\n"
    with pytest.raises(BadInputError, match="twice"):
        load_book(written(tmp_path, TEXT + "\n" + again))


def test_bought_or_rented_but_not_both(tmp_path: Path) -> None:
    rent = 'rent_per_hour = { value = 2, unit = "USD/h", source = "s", date = "2026" '
    rent += ', confidence = "L" }'
    text = TEXT.replace('chips = ["nvidia-h20"]', f'chips = ["nvidia-h20"]\n{rent}')
    with pytest.raises(BadInputError, match="not both"):
        load_book(written(tmp_path, text))


def test_a_missing_book_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no such file"):
        load_book(tmp_path / "none.toml")
