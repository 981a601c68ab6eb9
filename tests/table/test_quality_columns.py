"""Perplexity in the table: values, reasons, the note, and when the main block has the column."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chipmark.results.record import Record
from chipmark.table.render import rendered
from chipmark.table.rows import TableRow, build_rows

Make = Callable[..., Record]
NAMES = ("perplexity", "perplexity_source", "perplexity_ratio")


def quality(own: float, source: float) -> dict[str, Any]:
    return {"reason": None, "tokens": 100, "nll": own, "nll_source": source}


def row_with(make_record: Make, **changes: Any) -> TableRow:
    return build_rows([make_record(**changes)], None)[0]


def test_perplexity_is_made_from_the_stored_sums(make_record: Make) -> None:
    row = row_with(make_record, quality=quality(200.0, 198.0))
    # exp(2), exp(1.98), exp(0.02)
    assert [row.values[n] for n in NAMES] == pytest.approx([7.38906, 7.24274, 1.02020], rel=1e-5)
    assert not set(NAMES) & set(row.null_reasons)
    assert "quality_lost" not in [note["code"] for note in row.values["notes"]]


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        ({}, "unknown"),
        ({"quality": {"reason": "not_quantised"}}, "not_quantised"),
        ({"quality": {"reason": "synthetic_weights"}}, "synthetic_weights"),
        ({"quality": {"reason": "of a newer version"}}, "of a newer version"),
    ],
)
def test_each_null_has_the_records_reason(
    make_record: Make, stored: dict[str, Any], reason: str
) -> None:
    row = row_with(make_record, **stored)
    assert {row.null_reasons[name] for name in NAMES} == {reason}


@pytest.mark.parametrize("own", [204.9, 1e6])
def test_a_row_that_lost_too_much_says_so_and_has_no_rank(make_record: Make, own: float) -> None:
    row = row_with(make_record, quality=quality(own, 200.0))
    if own < 1000:
        row_5 = row_with(make_record, quality=quality(200.0 + 4.87, 200.0))
        assert not [n for n in row_5.values["notes"] if n["code"] == "quality_lost"]
    (note,) = (n for n in row.values["notes"] if n["code"] == "quality_lost")
    assert note["text"].startswith("perplexity ")
    assert row.rank is None
    assert any(text.startswith("quality_lost: ") for text in row.details["not_ranked"])


def test_the_main_block_has_the_ratio_where_a_row_knows_it(make_record: Make) -> None:
    plain = make_record(quality={"reason": "not_quantised"})
    quantised = make_record(1.1, backend="ort:cpu", quality=quality(200.0, 198.0))
    without = "".join(rendered(build_rows([plain], None), "rich"))
    assert "ppl" not in without
    assert "perplexity" not in without
    shown = "".join(rendered(build_rows([plain, quantised], None), "rich"))
    assert "ppl" in shown
    assert "1.020" in shown
