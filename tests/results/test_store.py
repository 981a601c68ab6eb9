from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from chipmark.engine.events import load_events, save_events
from chipmark.errors import BadInputError, BrokenRecordError, CannotWriteError, UsageError
from chipmark.metrics.derive import derive
from chipmark.results import store
from chipmark.results.raw import load_raw
from chipmark.results.record import SCHEMA, document_text, parse_record
from chipmark.results.store import find_records, load_record, load_records, sweep
from chipmark.results.write import record_raw


@pytest.fixture
def raw_dir(rawcells: ModuleType, tmp_path: Path) -> Path:
    folder: Path = rawcells.write_raw(tmp_path / "raw")
    return folder


def test_a_record_keeps_events_and_power_bit_for_bit(raw_dir: Path, tmp_path: Path) -> None:
    folder = record_raw(tmp_path / "out", raw_dir)
    record = load_record(folder)
    before, after = (load_raw(f, record.manifest) for f in (raw_dir, folder))
    assert len(after.repeats) == 3
    for a, b in zip(before.repeats, after.repeats, strict=True):
        for table, columns in a.events.items():
            for name, column in columns.items():
                assert column.dtype == b.events[table][name].dtype
                np.testing.assert_array_equal(column, b.events[table][name])
        assert a.power is not None
        assert b.power is not None
        np.testing.assert_array_equal(a.power.energy_j, b.power.energy_j)
        assert a.roofs == b.roofs
    assert derive(after).metrics == record.metrics.values


def test_a_record_is_json_with_its_schema_and_its_files(raw_dir: Path, tmp_path: Path) -> None:
    folder = record_raw(tmp_path / "out", raw_dir)
    document = json.loads((folder / "record.json").read_text())
    assert document["schema"] == SCHEMA == "chipmark.record/2"
    assert document["manifest"]["schema"] == "chipmark.cell/2"
    assert document["metrics"]["schema"] == "chipmark.metrics/2"
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert there == set(document["files"]) | {"record.json"}
    assert "repeat-2/turns.parquet" in there
    assert document["metrics"]["values"]["total_tok_s"] == pytest.approx(96 / (0.28 * 3.0))


def test_a_record_is_never_written_twice(raw_dir: Path, tmp_path: Path) -> None:
    record_raw(tmp_path / "out", raw_dir)
    with pytest.raises(UsageError, match="already exists"):
        record_raw(tmp_path / "out", raw_dir)


@pytest.mark.parametrize(
    ("error", "shown"),
    [(OSError("no space left"), CannotWriteError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_an_end_before_the_rename_leaves_nothing(
    raw_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    shown: type[BaseException],
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(store.os, "rename", fail)
    with pytest.raises(shown):
        record_raw(tmp_path / "out", raw_dir)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_killed_writer_leaves_no_record_and_its_rest_is_swept(
    raw_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    # Killed at the worst moment: everything is written, the rename has not happened.
    script = (
        "import os, sys; from pathlib import Path; from chipmark.results import store, write\n"
        "store.os.rename = lambda *_: os._exit(9)\n"
        "write.record_raw(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", script, str(out), str(raw_dir)]
    assert subprocess.run(command, check=False).returncode == 9
    assert len(list(out.glob(".*.partial/record.json"))) == 1
    assert find_records([out]) == []
    final = record_raw(out, raw_dir)
    assert [p.name for p in out.iterdir()] == [final.name]


def test_the_rest_of_a_live_writer_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / f".name.{store._host()}.{os.getpid()}.partial"
    mine.mkdir()
    assert sweep(tmp_path) == []
    assert mine.is_dir()


def test_a_failed_cell_is_a_record_too(rawcells: ModuleType, tmp_path: Path) -> None:
    raw = rawcells.write_raw(
        tmp_path / "raw",
        status="failed",
        failure={"code": "crash", "text": "signal 11"},
        load=None,
        parity={"verdict": "unchecked"},
    )
    record = load_record(record_raw(tmp_path / "out", raw))
    assert set(record.metrics.values.values()) == {None}
    assert set(record.metrics.null_reasons.values()) == {"cell_failed"}


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda d: (d / "repeat-1/events.npz").write_bytes(b"PK"), "repeat-1"),
        (lambda d: shutil.rmtree(d / "repeat-2"), "repeats"),
        (lambda d: (d / "repeat-0/power.npz").write_bytes(b"x"), "power"),
        (lambda d: (d / "trace.npz").unlink(), "trace"),
        (lambda d: (d / "cell.json").write_text("{}"), "cell.json"),
    ],
)
def test_a_raw_folder_that_is_not_whole_is_named(
    raw_dir: Path, tmp_path: Path, spoil: object, named: str
) -> None:
    spoil(raw_dir)  # type: ignore[operator]
    with pytest.raises(BadInputError, match=named):
        record_raw(tmp_path / "out", raw_dir)
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_a_done_turn_without_its_time_is_refused(raw_dir: Path, tmp_path: Path) -> None:
    path = raw_dir / "repeat-0" / "events.npz"
    events = load_events(path)
    events["launches"]["end_s"][:] = np.nan
    events["turns"]["first_token_s"][:] = np.nan
    save_events(path, events)
    with pytest.raises(BrokenRecordError, match="contradict"):
        record_raw(tmp_path / "out", raw_dir)


def test_records_are_found_below_any_path_and_broken_ones_are_named(
    rawcells: ModuleType, raw_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = record_raw(out / "a", raw_dir)
    other = rawcells.write_raw(tmp_path / "raw2", backend="ort:cpu")
    second = record_raw(out / "b", other)
    assert find_records([out]) == [first, second]
    assert find_records([first / "record.json", first, out]) == [first, second]
    text = (second / "record.json").read_text()
    (second / "record.json").write_text(text[: len(text) // 2])
    loaded = load_records([out])
    assert [r.path for r in loaded.records] == [first]
    assert [s.path for s in loaded.skipped] == [second]
    assert "invalid JSON" in loaded.skipped[0].reason
    with pytest.raises(BadInputError, match="no such"):
        find_records([tmp_path / "nowhere"])


def test_a_changed_document_and_a_newer_schema_are_refused(raw_dir: Path, tmp_path: Path) -> None:
    folder = record_raw(tmp_path / "out", raw_dir)
    path = folder / "record.json"
    document = json.loads(path.read_text())
    document["metrics"]["values"]["total_tok_s"] *= 2
    path.write_text(json.dumps(document))
    with pytest.raises(BrokenRecordError, match="checksum"):
        load_record(folder)
    document["schema"] = "chipmark.record/99"
    path.write_text(document_text(document))
    with pytest.raises(BrokenRecordError, match="record/99"):
        load_record(folder)


def test_an_unknown_field_is_named(raw_dir: Path, tmp_path: Path) -> None:
    folder = record_raw(tmp_path / "out", raw_dir)
    path = folder / "record.json"
    document = json.loads(path.read_text())
    document["manifest"]["colour"] = "red"
    path.write_text(document_text(document))
    with pytest.raises(BrokenRecordError, match=r"manifest\.colour"):
        load_record(folder)


@pytest.mark.parametrize("place", ["environment", "options", "cache_policy"])
def test_a_number_that_is_not_finite_is_found_where_anything_may_stand(
    place: str, tmp_path: Path
) -> None:
    published = sorted((Path(__file__).parents[2] / "results" / "amd-epyc-zen4").iterdir())[0]
    document = json.loads((published / "record.json").read_text())
    document["manifest"][place]["a"] = [1, {"b": 12345.5}]
    text = document_text(document).replace("12345.5", "1e999")
    digest = hashlib.sha256(re.sub(r'(?<=sha256": ")\w+(?="\n}\n)', "0" * 64, text).encode())
    text = re.sub(r'(?<=sha256": ")\w+(?="\n}\n)', digest.hexdigest(), text)
    with pytest.raises(BrokenRecordError, match=rf"manifest\.{place}\.a\.1\.b.*not a finite"):
        parse_record(tmp_path / "record.json", text)
