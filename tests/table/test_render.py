from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from chipmark.errors import UnknownNameError
from chipmark.foreign_text import plain_text
from chipmark.prices.book import EXAMPLE, load_book
from chipmark.results.record import Record
from chipmark.table.cells import file_text, number_text
from chipmark.table.columns import COLUMNS, EXTRA_KEYS
from chipmark.table.listed import BLOCKS
from chipmark.table.render import FORMATS, rendered
from chipmark.table.rows import TableRow, build_rows
from chipmark_models.presets import preset


def render(rows: Any, format: str, *args: Any, **options: Any) -> str:
    return "".join(rendered(rows, format, *args, **options))


Make = Callable[..., Record]
EVIL = '=cmd|"/C calc"!A1 <script>alert(1)</script> | `x` \x1b[31mred'


@pytest.fixture
def rows(make_record: Make) -> list[TableRow]:
    cpu = {"chip__unit": "cpu-share", "chip__used": 2, "chip__of": 2, "meter__scope": "cpu-share"}
    records = [
        make_record(watts=30.0, meter__source="assumed", **cpu),
        make_record(1.1, backend="ort:openvino", meter__source="declared", **cpu),
        make_record(1.2, backend="ort:cpu", parity={"verdict": "unchecked", "reason": EVIL}),
        make_record(status="failed", load=None, failure={"code": "crash", "text": "signal 11"}),
    ]
    return build_rows(records, load_book(EXAMPLE))


def test_json_has_exactly_the_columns_and_the_extras(rows: list[TableRow]) -> None:
    found = json.loads(render(rows, "json"))
    assert len(found) == 4
    for row in found:
        assert list(row) == [*COLUMNS, *EXTRA_KEYS]
        for name in COLUMNS:
            assert (row[name] is None) == (name in row["null_reasons"])
        assert all(set(note) == {"code", "text"} for note in row["notes"])
        assert isinstance(row["comparable"], list)
    assert found[0]["intervals"]["total_tok_s"][0] < found[0]["total_tok_s"]
    assert found[0]["details"]["out_tok_per_joule"] is not None
    assert "tok_per_joule_net" in found[0]["details"]


def test_json_types_are_those_of_the_columns(rows: list[TableRow]) -> None:
    types = {"string": str, "integer": int, "number": (int, float), "list": list}
    for row in json.loads(render(rows, "json")):
        for name, column in COLUMNS.items():
            assert row[name] is None or isinstance(row[name], types[column.type]), name


@pytest.mark.parametrize("format", ["rich", "md"])
def test_assumed_and_declared_are_marked(rows: list[TableRow], format: str) -> None:
    lines = [
        line
        for line in render(rows, format).splitlines()
        if ("torch:cpu" in line or "ort:" in line) and "baseline" not in line
    ]
    assumed, declared, measured = lines[:3]
    assert "~" in assumed
    assert "≥" in declared
    assert "~" not in measured
    assert "≥" not in measured


@pytest.mark.parametrize("all_columns", [False, True])
def test_a_terminal_of_120_columns_is_enough(rows: list[TableRow], all_columns: bool) -> None:
    text = render(rows, "rich", all_columns=all_columns)
    assert max(len(line) for line in text.splitlines()) <= 120
    assert "ort:openvino" in text
    for word in ("comparable", "cell_failed", "ranked by total_tok_s"):
        assert word in text


def test_no_number_of_the_main_block_is_cut_off(rows: list[TableRow]) -> None:
    text = render(rows, "rich")
    assert "…" not in text
    assert "114.3" in text


def test_all_blocks_together_show_every_column_once() -> None:
    shown = [name for _, names in BLOCKS for name in names]
    assert sorted(shown) == sorted(COLUMNS)


def test_a_terminal_is_not_sent_escape_sequences(rows: list[TableRow]) -> None:
    assert "\x1b" not in render(rows, "rich")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_csv_holds_no_formula(text: str) -> None:
    assert file_text(text).startswith(f"'{plain_text(text)}")
    assert file_text(-1.5) == "-1.5"


def test_csv_reads_back(rows: list[TableRow]) -> None:
    table = list(csv.DictReader(io.StringIO(render(rows, "csv"))))
    assert list(table[0]) == [*COLUMNS, "rank"]
    assert float(table[0]["total_tok_s"]) == rows[0].values["total_tok_s"]
    assert table[3]["total_tok_s"] == ""
    assert not [v for row in table for v in row.values() if v.startswith(("=", "+", "@"))]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]


def test_html_holds_no_foreign_markup(rows: list[TableRow]) -> None:
    text = render(rows, "html")
    parser = Tags()
    parser.feed(text)
    assert "script" not in parser.tags
    assert "&lt;script&gt;" in text
    assert parser.tags.count("tr") == 5


def test_markdown_cells_stay_in_their_cells(rows: list[TableRow]) -> None:
    lines = [line for line in render(rows, "md").splitlines() if line.startswith("| ")]
    heads = [line for line in lines if line.startswith("| # ")]
    assert len(heads) >= 2
    assert "<script" not in render(rows, "md")


@pytest.mark.parametrize(
    ("value", "text"),
    [(114.2857, "114.3"), (0.04137, "0.0414"), (1.0, "1.000"), (12, "12"), (2.5e-5, "2.50e-05"),
     (23305.99, "23306"), (0.0, "0"), (1.5e9, "1.50e+09")],
)  # fmt: skip
def test_numbers_for_people(value: float, text: str) -> None:
    assert number_text(value) == text


def test_an_unknown_format_has_near_names(rows: list[TableRow]) -> None:
    with pytest.raises(UnknownNameError, match="json"):
        render(rows, "jsn")
    assert set(FORMATS) == {"rich", "md", "csv", "json", "html"}


@pytest.mark.parametrize("format", FORMATS)
def test_no_rows_are_no_error(format: str) -> None:
    assert isinstance(render([], format), str)


@pytest.mark.parametrize(
    ("weights", "kind", "shown"),
    [
        ("w4", "w4a16", "w4/g128"),
        ("w8", "w8a16", "w8/g128"),
        ("fp8", "fp8", "fp8/row"),
        ("bf16", "16-bit", "bf16"),
    ],
)
def test_precision_names_class_and_group(
    make_record: Make, weights: str, kind: str, shown: str
) -> None:
    record = make_record(
        model__config=preset("qwen3-8b").to_dict(),
        precision__weights=weights,
        precision__class_name=kind,
    )
    row = build_rows([record], load_book(EXAMPLE))[0]
    assert str(row.values["precision"]).startswith(f"{kind} (w {shown}, a ")


def test_the_objective_is_named_in_the_row_and_above_the_table(make_record) -> None:
    rows = build_rows([make_record()], None)
    assert rows[0].details["slo"] == {
        "name": "agent-interactive", "ttft_append_s": 2.0, "ttft_cold_s": 10.0, "tpot_s": 0.05,
        "share": 0.95,
    }  # fmt: skip
    assert "; SLO agent-interactive" in render(rows, "rich")
    # Four turns, all inside: 0.05 ** (1 / 4) of them is what can be claimed.
    bound = rows[0].details["slo_bound"]
    assert (bound["turns"], bound["effective_turns"]) == (4, 4.0)
    assert bound["lower"] == pytest.approx(0.05 ** (1 / 4))
