"""Load and compile time and memory of the device as columns."""

from __future__ import annotations

from collections.abc import Callable

from chipmark.results.record import Record
from chipmark.table.rows import build_rows

Make = Callable[..., Record]
NAMES = ("load_s", "compile_s", "peak_device_bytes")


def test_they_are_the_records(make_record: Make) -> None:
    own = {"load__load_s": 3.0, "load__compile_s": 40.0, "load__peak_device_bytes": 5_000}
    (row,) = build_rows([make_record(**own)], None)
    assert [row.values[name] for name in NAMES] == [3.0, 40.0, 5_000]


def test_a_host_has_no_memory_of_its_own_and_of_others_it_is_unknown(make_record: Make) -> None:
    host, card = build_rows(
        [make_record(chip__unit="package"), make_record(chip__unit="card")], None
    )
    assert host.null_reasons["peak_device_bytes"] == "host_memory"
    assert card.null_reasons["peak_device_bytes"] == "unknown"


def test_a_cell_that_did_not_load_has_none(make_record: Make) -> None:
    (row,) = build_rows([make_record(status="failed", load=None)], None)
    assert {row.null_reasons[name] for name in NAMES} == {"cell_failed"}
