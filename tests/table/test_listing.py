"""Listings on a terminal: one table, several below each other, or a block for each row."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from chipmark.table.layout import listing, text_blocks, text_tables
from chipmark.table.listing import name, number, show, words

COLUMNS = [name("chip"), number("memory"), number("TDP"), words("source")]
ROWS = [
    ["nvidia-h200-sxm", "141 GB", "700 W", "the vendor's datasheet of 2024"],
    ["kunlun-m100", "unknown", "unknown", ""],
]


def test_what_fits_is_one_table() -> None:
    lines = listing(COLUMNS, ROWS, 80)
    assert len(lines) == 2 + len(ROWS)
    assert lines[0].split() == ["chip", "memory", "TDP", "source"]


def test_what_does_not_fit_is_in_further_tables_without_rows_that_are_empty_there() -> None:
    lines = listing(COLUMNS, ROWS, 36)
    at = lines.index("")
    assert max(map(len, lines)) <= 36
    assert any(line.startswith("kunlun-m100") for line in lines[:at])
    assert not any(line.startswith("kunlun-m100") for line in lines[at:])


def test_what_would_need_many_tables_is_a_block_for_each_row() -> None:
    columns = [name("chip"), *(number(f"number {i}") for i in range(9))]
    rows = [["nvidia-h200-sxm", *(f"{i}{i}{i}{i}{i} GB/s" for i in range(9))]]
    lines = listing(columns, rows, 40)
    assert lines[0] == "chip      nvidia-h200-sxm"
    assert lines[1] == "number 0  00000 GB/s"
    assert len(lines) == 10


def test_a_block_leaves_out_what_is_empty_and_wraps_between_words() -> None:
    lines = text_blocks(COLUMNS, ROWS, 24)
    assert lines == [
        "chip    nvidia-h200-sxm",
        "memory  141 GB",
        "TDP     700 W",
        "source  the vendor's",
        "        datasheet of",
        "        2024",
        "",
        "chip    kunlun-m100",
        "memory  unknown",
        "TDP     unknown",
    ]


def test_a_long_word_has_a_line_of_its_own_and_stays_whole() -> None:
    url = "https://example.org/" + "x" * 40
    assert text_blocks([name("chip"), words("source")], [["a", url]], 30) == [
        "chip    a",
        "source",
        f"  {url}",
    ]


def test_a_table_with_a_column_wider_than_the_width_is_shown_in_blocks() -> None:
    long = "n" * 50
    lines = text_tables([name("benchmark"), number("base")], [[long, "1.5 ms"]], 40)
    assert f"  {long}" in lines
    assert "base       1.5 ms" in lines


@pytest.mark.parametrize("text", ["a\x1b[31mred", "[bold]not markup[/]"])
def test_texts_are_shown_and_not_obeyed(text: str) -> None:
    out = io.StringIO()
    show(Console(file=out, width=60), [name("x"), words("y")], [["a", text]], title=text)
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().count(text.replace("\x1b", "\\x1b")) == 2


def test_styles_and_bold_heads_are_for_terminals_only() -> None:
    for terminal in (False, True):
        out = io.StringIO()
        colours = "standard" if terminal else None
        console = Console(file=out, width=60, force_terminal=terminal, color_system=colours)
        show(console, [name("here")], [["yes"]], styles={r"(?m)^yes\b": "green"})
        assert ("\x1b[32myes" in out.getvalue()) is terminal
        assert ("\x1b[1mhere" in out.getvalue()) is terminal
