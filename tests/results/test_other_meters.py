"""Readings of the meters next to a row's own: stored, sealed, loaded, checked, computed again."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from chipmark.errors import BrokenRecordError
from chipmark.meters.contract import PowerSamples
from chipmark.meters.replay import save_samples
from chipmark.results.finding import Finding
from chipmark.results.manifest import load_manifest
from chipmark.results.raw import load_raw
from chipmark.results.recompute import Recomputed, recompute
from chipmark.results.store import load_record
from chipmark.results.validate import validate_record
from chipmark.results.write import record_raw

WALL = {
    "name": "Rack PDU", "source": "wall", "scope": "wall", "method": "hand",
    "update_period_s": 0.001, "error_rel": 0.02, "cap_w": 500.0, "verified": False,
}  # fmt: skip
HOST = {
    "name": "rapl", "source": "counter", "scope": "package", "method": "hand",
    "update_period_s": 0.001, "error_rel": 0.05, "covers": "2 packages",
}  # fmt: skip


def polled(watts: float, start_s: float, end_s: float) -> PowerSamples:
    time_s = np.arange(start_s - 0.01, end_s + 0.01, 0.001)
    return PowerSamples(time_s, np.full(time_s.size, np.nan), np.full(time_s.size, watts))


@pytest.fixture
def raw(rawcells: ModuleType, tmp_path: Path) -> Path:
    """Three repeats of 20 W on the board, 31 W at the wall and, but for the last, 12 W of a host;
    idle at the wall before."""
    folder = rawcells.write_raw(tmp_path / "raw", beside=[WALL, HOST])
    for index in range(3):
        with np.load(folder / f"repeat-{index}/power.npz") as own:
            start_s, end_s = float(own["time_s"][0]), float(own["time_s"][-1])
        save_samples(folder / f"repeat-{index}/power-rack-pdu.npz", polled(31.0, start_s, end_s))
        if index < 2:
            host = rawcells.counter(12.0, start_s, end_s)
            save_samples(folder / f"repeat-{index}/power-rapl.npz", host)
    save_samples(folder / "idle-before-rack-pdu.npz", polled(9.0, 0.0, 31.0))
    return Path(folder)


@pytest.fixture
def record(raw: Path, tmp_path: Path) -> Path:
    return record_raw(tmp_path / "out", raw)


def errors(folder: Path) -> list[Finding]:
    return [found for found in validate_record(folder) if found.severity == "error"]


def beside(folder: Path) -> dict[str, Any]:
    energy = load_record(folder).metrics.details["energy"]
    return {entry["name"]: entry for entry in energy["beside"]}


def test_every_file_is_of_the_record_and_its_numbers_are_in_it(record: Path) -> None:
    found = load_record(record)
    files = [name for name in found.files if "-rack-pdu" in name or "-rapl" in name]
    assert sorted(files) == [
        "idle-before-rack-pdu.parquet",
        *(f"repeat-{i}/{n}.parquet" for i in (0, 1) for n in ("power-rack-pdu", "power-rapl")),
        "repeat-2/power-rack-pdu.parquet",
    ]
    assert errors(record) == []
    entries = beside(record)
    assert entries["Rack PDU"]["power_w"] == pytest.approx(31.0)
    assert (entries["Rack PDU"]["repeats"], entries["rapl"]["repeats"]) == (3, 2)
    assert entries["rapl"]["power_w"] == pytest.approx(12.0)
    assert entries["rapl"]["covers"] == "2 packages"
    # The row's own numbers are of its own meter.
    assert found.metrics.values["power_w"] == pytest.approx(20.0)
    loaded = load_raw(record, found.manifest)
    assert loaded.repeats[2].beside.keys() == {"Rack PDU"}
    before, after = loaded.idle_beside["Rack PDU"]
    assert before is not None
    assert set(before.power_w) == {9.0}
    assert after is None


def test_recomputing_gives_the_same_files_and_numbers(record: Path, tmp_path: Path) -> None:
    (done,) = recompute([record], tmp_path / "again")
    assert isinstance(done, Recomputed)
    assert done.changes == ()
    assert {n: f.sha256 for n, f in done.new.files.items()} == {
        n: f.sha256 for n, f in done.old.files.items()
    }
    assert beside(done.new.path) == beside(record)
    assert errors(done.new.path) == []


def test_a_change_of_their_files_is_found(record: Path) -> None:
    path = record / "repeat-0/power-rapl.parquet"
    kept = path.read_bytes()
    path.write_bytes(kept[:-9] + bytes([kept[-9] ^ 1]) + kept[-8:])
    assert {found.path for found in errors(record)} == {path}
    path.unlink()
    assert [found.code for found in errors(record)] == ["missing"]


@pytest.mark.parametrize("name", ["repeat-1/power-nobody.npz", "idle-after-nobody.npz"])
def test_readings_of_no_meter_are_refused(raw: Path, name: str) -> None:
    save_samples(raw / name, polled(1.0, 0.0, 1.0))
    with pytest.raises(BrokenRecordError, match=r"nobody\.npz.*no meter that the manifest names"):
        load_raw(raw, load_manifest(raw / "cell.json"))


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        (PowerSamples(np.array([1.0, 0.0]), np.zeros(2), np.zeros(2)), "goes back in time"),
        (PowerSamples(np.array([0.0, np.nan]), np.zeros(2), np.zeros(2)), "is not finite"),
        (PowerSamples(np.zeros(2), np.zeros(2), np.zeros(1)), "of different lengths"),
    ],
)
def test_broken_readings_are_refused_by_name(raw: Path, samples: PowerSamples, text: str) -> None:
    save_samples(raw / "repeat-0/power-rapl.npz", samples)
    with pytest.raises(BrokenRecordError, match=f"power-rapl.*{text}"):
        load_raw(raw, load_manifest(raw / "cell.json"))


def test_two_meters_of_one_file_name_are_refused(rawcells: ModuleType, tmp_path: Path) -> None:
    folder = rawcells.write_raw(tmp_path / "raw", beside=[WALL])
    document = json.loads((folder / "cell.json").read_text())
    document["beside"].append(WALL | {"name": "rack/pdu"})
    (folder / "cell.json").write_text(json.dumps(document))
    with pytest.raises(BrokenRecordError, match=r"beside.*two meters of one file name"):
        load_manifest(folder / "cell.json")


def test_a_name_cannot_lead_out_of_the_folder(rawcells: ModuleType, tmp_path: Path) -> None:
    folder = rawcells.write_raw(tmp_path / "raw", beside=[WALL | {"name": "../../secret"}])
    save_samples(tmp_path / "secret.npz", polled(1.0, 0.0, 1.0))
    assert load_raw(folder, load_manifest(folder / "cell.json")).repeats[0].beside == {}


def test_details_of_another_kind_are_refused(record: Path) -> None:
    from chipmark.results.stored_details import check_details

    entry = {"name": "x", "source": "wall", "scope": "wall", "power_w": "much"}
    with pytest.raises(ValueError, match="power_w"):
        check_details({"energy": {"beside": [entry]}})
    check_details({"energy": {"beside": [entry | {"power_w": 1.0}]}})
