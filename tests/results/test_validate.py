from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from chipmark.engine.events import load_events, save_events
from chipmark.results.record import document_text
from chipmark.results.store import find_records, load_record
from chipmark.results.validate import validate_record
from chipmark.results.write import record_raw

# One repeat of the cell of `tests/rawcells.py`, written by the first version of the schema. It is
# never written again: it shows that what was measured then can still be read.
OLD = Path(__file__).with_name("data") / "record-1"


def validate(path):
    """Findings on every record under a path."""
    return [found for folder in find_records([path]) for found in validate_record(folder)]


@pytest.fixture
def record(rawcells: ModuleType, tmp_path: Path) -> Path:
    raw = rawcells.write_raw(tmp_path / "raw")
    return record_raw(tmp_path / "out", raw)


def codes(path: Path) -> set[str]:
    return {f.code for f in validate(path) if f.severity == "error"}


def test_a_whole_record_has_no_finding(record: Path) -> None:
    assert validate(record) == []


def test_a_change_of_any_file_is_found(record: Path) -> None:
    names = [p.relative_to(record) for p in record.rglob("*") if p.is_file()]
    assert len(names) > 20
    for name in names:
        path = record / name
        kept = path.read_bytes()
        middle = len(kept) // 2
        path.write_bytes(kept[:middle] + bytes([kept[middle] ^ 1]) + kept[middle + 1 :])
        assert codes(record), name
        path.unlink()
        if name.name != "record.json":
            assert "missing" in codes(record)
        path.write_bytes(kept)
    assert validate(record) == []


def test_a_file_too_many_is_a_warning(record: Path) -> None:
    (record / "more.txt").write_text("x")
    assert [(f.severity, f.code) for f in validate(record)] == [("warning", "extra")]


def test_a_path_out_of_the_record_is_refused(record: Path) -> None:
    (record.parent / "outside").write_text("x")
    document = json.loads((record / "record.json").read_text())
    document["files"]["../outside"] = {"sha256": "0", "bytes": 1}
    (record / "record.json").write_text(document_text(document))
    assert "path" in codes(record)


def test_metrics_that_do_not_follow_from_the_raw_files_are_found(record: Path) -> None:
    document = json.loads((record / "record.json").read_text())
    document["metrics"]["values"]["tok_per_joule"] *= 1.001
    (record / "record.json").write_text(document_text(document))
    found = validate(record)
    assert [f.code for f in found] == ["metrics"]
    assert "tok_per_joule" in found[0].text


def changed(record: Path, change: Callable[[dict[str, Any]], object]) -> list[str]:
    """Texts of the findings on a record whose stored metrics were edited."""
    document = json.loads((record / "record.json").read_text())
    change(document["metrics"])
    (record / "record.json").write_text(document_text(document))
    return [f.text for f in validate(record) if f.severity == "error"]


def test_an_interval_that_was_made_narrower_is_found(record: Path) -> None:
    texts = changed(record, lambda m: m["intervals"].update(total_tok_s=[114.0, 114.1]))
    assert len(texts) == 1
    assert "the interval of total_tok_s" in texts[0]


def test_an_interval_that_was_taken_away_is_found(record: Path) -> None:
    assert "decode_tok_s" in changed(record, lambda m: m["intervals"].pop("decode_tok_s"))[0]


def test_a_note_that_was_taken_away_is_found(rawcells: ModuleType, tmp_path: Path) -> None:
    raw = rawcells.write_raw(tmp_path / "raw", slows=(1.0, 1.06, 1.1, 1.16, 1.2, 1.26))
    record = record_raw(tmp_path / "out", raw)
    assert "not_steady" in {n.code for n in load_record(record).metrics.notes}
    assert changed(record, lambda m: m["notes"].clear()) == [
        "the notes differ from those computed: not_steady"
    ]


def test_a_reason_that_was_changed_is_found(record: Path) -> None:
    texts = changed(record, lambda m: m["null_reasons"].update(mbu_nameplate="no_probe"))
    assert texts == ["mbu_nameplate is null because of no_probe, computed as no_nameplate"]


def test_a_share_over_its_roof_is_found(rawcells: ModuleType, tmp_path: Path) -> None:
    probes = {**rawcells.PROBES, "read_before": 1e6, "read_after": 1e6}
    record = record_raw(tmp_path / "out", rawcells.write_raw(tmp_path / "raw", probes=probes))
    found = [f for f in validate(record) if f.severity == "error"]
    assert [f.code for f in found] == ["over_roof"]
    assert "mbu" in found[0].text


def test_a_corrected_catalogue_does_not_make_a_record_wrong(
    rawcells: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chip = {"chip__name": "nvidia-l40s", "chip__vendor": "NVIDIA"}
    record = record_raw(tmp_path / "out", rawcells.write_raw(tmp_path / "raw", **chip))
    stored = load_record(record).metrics
    assert stored.details["nameplate_bytes_s"] == 864e9
    assert stored.values["mbu_nameplate"] is not None
    monkeypatch.setattr("chipmark.results.raw.nameplate_bytes_s", lambda chip: 900e9)
    assert validate(record) == []


def test_events_that_flatter_are_found(rawcells: ModuleType, tmp_path: Path) -> None:
    raw = rawcells.write_raw(tmp_path / "raw")
    path = raw / "repeat-1" / "events.npz"
    events = load_events(path)
    events["turns"]["reused_tokens"][1] = 17
    events["turns"]["n_out"][0] = 400
    save_events(path, events)
    found = codes(record_raw(tmp_path / "out", raw))
    assert {"hit_above_ideal", "turn_counts"} <= found


@pytest.mark.parametrize(
    ("table", "column", "change", "code"),
    [
        ("launches", "end_s", lambda t: 0.9 * t["start_s"] + 0.1 * t["end_s"], "uncovered_time"),
        ("launches", "step", lambda t: t["step"][::-1].copy(), "clock"),
        ("launches", "start_s", lambda t: 0 * t["start_s"] + t["start_s"][3], "clock"),
        ("rows", "sampled", lambda t: np.full_like(t["sampled"], -1) + (t["start"] > 9), "ids"),
        ("steps", "visible_s", lambda t: t["visible_s"] - 0.002, "clock"),
        ("window", "simulated", lambda t: t["simulated"] + 1, "clock"),
    ],
)
def test_edited_events_are_found_though_their_checksums_are_right(
    rawcells: ModuleType, tmp_path: Path, table, column, change, code
) -> None:
    raw = rawcells.write_raw(tmp_path / "raw")
    events = load_events(raw / "repeat-1" / "events.npz")
    events[table][column] = change(events[table]).astype(events[table][column].dtype)
    save_events(raw / "repeat-1" / "events.npz", events)
    assert code in codes(record_raw(tmp_path / "out", raw))


def test_a_repeat_without_or_against_the_parents_clock_is_found(
    rawcells: ModuleType, tmp_path: Path
) -> None:
    raw = rawcells.write_raw(tmp_path / "raw")
    path = raw / "repeat-1" / "timing.json"
    timing = json.loads(path.read_text())
    path.write_text(json.dumps(timing | {"ended_s": timing["ended_s"] + 2.0}))
    record = record_raw(tmp_path / "out", raw)
    assert codes(record) == {"clock"}
    assert "clock" in {note.code for note in load_record(record).metrics.notes}
    path.unlink()
    assert codes(record_raw(tmp_path / "more", raw)) == {"clock"}


def test_a_trace_of_another_workload_is_found(rawcells: ModuleType, tmp_path: Path) -> None:
    raw = rawcells.write_raw(tmp_path / "raw", workload__hash="0" * 64)
    assert codes(record_raw(tmp_path / "out", raw)) == {"trace_hash"}


def test_an_unknown_note_code_is_a_warning(rawcells: ModuleType, tmp_path: Path) -> None:
    notes = [{"code": "odd_one", "text": "?"}]
    record = record_raw(tmp_path / "out", rawcells.write_raw(tmp_path / "raw", notes=notes))
    assert [(f.severity, f.code) for f in validate(record)] == [("warning", "note_code")]


def test_the_old_record_of_schema_1_still_loads(tmp_path: Path) -> None:
    folder = tmp_path / "record-1"
    shutil.copytree(OLD, folder)
    record = load_record(folder)
    assert (record.schema_, record.written_as) == ("chipmark.record/2", "chipmark.record/1")
    assert record.metrics.values["sessions"] == 2
    assert np.isclose(record.metrics.values["total_tok_s"] or 0.0, 32 / 0.280)
    assert not [f for f in validate(folder) if f.severity == "error"]
