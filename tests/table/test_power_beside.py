"""The column `power_beside`: names and numbers whole, nulls with their reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from chipmark.results.record import Record
from chipmark.table.render import rendered
from chipmark.table.rows import build_rows

MakeRecord = Callable[..., Record]
HOST = {"name": "rapl", "source": "counter", "scope": "package", "power_w": 41.1962}
WALL = {"name": "pdu", "source": "wall", "scope": "wall", "power_w": 12_345.678}


def told(make_record: MakeRecord, *entries: Mapping[str, Any]) -> Any:
    record = make_record()
    energy = record.metrics.details["energy"] | {"beside": list(entries)}
    metrics = record.metrics.model_copy(
        update={"details": record.metrics.details | {"energy": energy}}
    )
    return build_rows([record.model_copy(update={"metrics": metrics})], None)[0]


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ((HOST, WALL), "host package 41.2 W; wall 12345.7 W"),
        ((HOST | {"power_w": 0.01234},), "host package 0.0123 W"),
        ((HOST | {"power_w": 0.0},), "host package 0 W"),
        (
            (WALL, HOST | {"source": "assumed", "scope": "cpu-share"}),
            "wall 12345.7 W; cpu-share ~41.2 W",
        ),
        ((HOST | {"source": "declared", "scope": "module"},), "module ≤41.2 W"),
        (
            (WALL, WALL | {"name": "bmc", "power_w": None, "null_reason": "power_gaps"}),
            "wall pdu 12345.7 W; wall bmc: power_gaps",
        ),
        ((HOST | {"scope": "memory"}, HOST | {"scope": "node_dc"}), None),
        # The row's own meter covers a board as well.
        ((HOST | {"name": "tool", "scope": "board"},), "board tool 41.2 W"),
    ],
)
def test_each_is_named_by_what_it_covers(
    make_record: MakeRecord, entries: tuple[Mapping[str, Any], ...], text: str | None
) -> None:
    row = told(make_record, *entries)
    expected = text or "host memory 41.2 W; node (DC side) 41.2 W"
    assert row.values["power_beside"] == expected
    assert "power_beside" not in row.null_reasons


def test_a_row_without_any_is_null_because_nothing_was_measured(make_record: MakeRecord) -> None:
    row = build_rows([make_record()], None)[0]
    assert row.values["power_beside"] is None
    assert row.null_reasons["power_beside"] == "not_measured"


@pytest.mark.parametrize("format_", ["rich", "md", "csv", "html"])
def test_it_is_shown_whole(make_record: MakeRecord, format_: Any) -> None:
    text = "".join(rendered([told(make_record, HOST, WALL)], format_))
    assert "host package 41.2 W; wall 12345.7 W" in " ".join(text.split())
