"""A polled tool and a counter of the same simulated card, through a whole run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import chipmark
from chipmark.closed_form.check import check_record
from chipmark.prices.book import EXAMPLE
from chipmark.results.record import document_text
from chipmark.results.store import find_records, load_record
from chipmark.results.validate import validate_record


@pytest.fixture(scope="module")
def pulsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record of `sim:pulsed`, whose meter is polled."""
    out = tmp_path_factory.mktemp("runs")
    chipmark.run("quick", "sim:pulsed", sessions=4, repeats=2, budget_s=0, out=out)
    return find_records([out])[0]


def test_both_are_stored_and_agree_within_their_bounds(pulsed: Path) -> None:
    record = load_record(pulsed)
    assert record.manifest.meter is not None
    assert record.manifest.meter.source == "polled"
    assert [(m.name, m.source) for m in record.manifest.beside] == [("sim-counter", "counter")]
    assert "repeat-1/power-sim-counter.parquet" in record.files
    energy = record.metrics.details["energy"]
    (counter,) = energy["beside"]
    assert counter["error_rel"] == 0.0
    assert energy["energy_j"] != counter["energy_j"]
    assert abs(energy["energy_j"] - counter["energy_j"]) < energy["error_rel"] * energy["energy_j"]
    # Once in each 2 ms, at a drawn moment.
    assert energy["reading_period_s"]["median"] == pytest.approx(0.002, rel=0.2)
    assert energy["reading_period_s"]["largest"] < 0.004
    assert validate_record(pulsed) == []


def test_the_counter_has_the_closed_forms_joules_and_polling_comes_close(pulsed: Path) -> None:
    assert check_record(pulsed, EXAMPLE) == []


def test_a_counter_that_is_off_is_found(pulsed: Path, tmp_path: Path) -> None:
    document = json.loads((pulsed / "record.json").read_text())
    document["metrics"]["details"]["energy"]["beside"][0]["power_w"] *= 1.001
    for name in document["files"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((pulsed / name).read_bytes())
    (tmp_path / "record.json").write_text(document_text(document))
    (found,) = check_record(tmp_path, EXAMPLE)
    assert "power_w by sim-counter is" in found.text


def test_a_named_meter_is_not_read_next_to_a_virtual_clock(tmp_path: Path) -> None:
    (record,) = chipmark.run(
        "quick", "sim:golden", sessions=1, repeats=1, budget_s=0, meters="rapl", out=tmp_path
    )
    texts = [note.text for note in record.manifest.notes if note.code == "meter"]
    assert any("simulated device" in text for text in texts)
    assert record.manifest.meter is not None
    assert record.manifest.meter.name == "sim"
    assert record.manifest.beside == ()
