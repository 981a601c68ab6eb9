"""Tables in a given width: nothing is cut, whatever the width is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chipmark.prices.book import EXAMPLE, load_book
from chipmark.results.record import Record
from chipmark.table.cells import people_text
from chipmark.table.cost_table import cost_text, price_text
from chipmark.table.layout import TextColumn, text_tables, wrapped
from chipmark.table.rows import TableRow, build_rows

Make = Callable[..., Record]


def test_what_does_not_fit_beside_goes_below_with_its_lead() -> None:
    columns = [TextColumn(head, "right") for head in ("#", "one", "two", "three")]
    lines = text_tables(columns, [["1", "11111", "22222", "33333"]], width=15)
    assert max(map(len, lines)) <= 15
    assert [line.split() for line in lines if line and "─" not in line] == [
        ["#", "one", "two"], ["1", "11111", "22222"], ["#", "three"], ["1", "33333"],
    ]  # fmt: skip
    assert len(text_tables(columns, [["1", "11111", "22222", "33333"]], width=60)) == 3


def test_names_are_wrapped_between_words_only() -> None:
    columns = [TextColumn("name", "left"), TextColumn("n", "right")]
    lines = text_tables(columns, [["nvidia-h200-sxm (400 W of 700 W)", "1"]], width=20, lead=0)
    assert "nvidia-h200-sxm" in lines[2]
    assert wrapped("one twothreefourfive", 10) == ["one", "twothreefourfive"]


def test_a_column_of_one_long_number_is_wider_than_the_terminal() -> None:
    lines = text_tables([TextColumn("n", "right")], [["1" * 30]], width=10, lead=0)
    assert "1" * 30 in lines


@pytest.fixture
def priced(make_record: Make) -> list[TableRow]:
    chip = {"chip__name": "nvidia-a100-80g-sxm", "scenario": "capacity"}
    full = {"workload__scale": ["1", "1", "1"]}
    records = [
        make_record(backend="ort:openvino-plugin:0", **chip, **full),
        make_record(1.3, backend="torch:cuda:12", **chip, **full),
    ]
    return build_rows(records, load_book(EXAMPLE), rank_by="cost_per_session")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_cost_table_keeps_every_number_and_name(priced: list[TableRow], width: int) -> None:
    text = cost_text(priced, width)
    words = text.split()
    for row in priced:
        for name in ("cost_per_session", "cost_per_mtok", "daily_active_agents"):
            assert people_text(row, name) in words
        assert row.details["break_even_chip_price"] is not None
        assert price_text(row.details["break_even_chip_price"]) in words
        assert row.values["backend"] in words
        assert row.values["chip"] in words
    if width >= 80:
        assert max(map(len, text.splitlines())) <= width


def test_a_price_has_no_exponent() -> None:
    assert price_text(161_639.4) == "161,639"
    assert price_text(12.345) == "12.35"
    assert price_text(None) == "-"
