"""The columns `meter` and `energy_error_rel`: whose joules they are, and how far off at most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chipmark.results.record import Record
from chipmark.table.rows import build_rows

MakeRecord = Callable[..., Record]


def with_energy(make_record: MakeRecord, **found: Any) -> Any:
    record = make_record()
    energy = record.metrics.details["energy"] | found
    metrics = record.metrics.model_copy(
        update={"details": record.metrics.details | {"energy": energy}}
    )
    return build_rows([record.model_copy(update={"metrics": metrics})], None)[0]


def test_the_bound_and_its_meter_stand_in_the_row(make_record: MakeRecord) -> None:
    row = with_energy(make_record, error_rel=0.105)
    meter = make_record().manifest.meter
    assert meter is not None
    assert (row.values["meter"], row.values["energy_error_rel"]) == (meter.name, 0.105)


def test_energy_without_a_bound_says_why(make_record: MakeRecord) -> None:
    row = with_energy(make_record, error_rel=None, error_null_reason="error_without_cap")
    assert row.values["energy_error_rel"] is None
    assert row.null_reasons["energy_error_rel"] == "error_without_cap"
