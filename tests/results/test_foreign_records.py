"""Records that somebody else may have made: each fault costs its own record, and is named."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import chipmark
from chipmark.errors import BrokenRecordError
from chipmark.results.record import RECORD_BYTES, document_text
from chipmark.results.store import load_record, load_records
from chipmark.results.validate import validate_record
from chipmark.results.write import record_raw


@pytest.fixture
def record(rawcells: ModuleType, tmp_path: Path) -> Path:
    return record_raw(tmp_path / "out", rawcells.write_raw(tmp_path / "raw"))


def sealed(record: Path, name: str, content: bytes) -> None:
    """Another content of a file, its checksum in the record and the record's own right."""
    (record / name).write_bytes(content)
    document = json.loads((record / "record.json").read_text())
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    document["files"][name] = entry
    (record / "record.json").write_text(document_text(document))


def changed(record: Path, *path: str, value: object) -> None:
    """Another value in the record, its own checksum right."""
    document = json.loads((record / "record.json").read_text())
    node = document
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    text = document_text({k: v for k, v in document.items() if k != "self_sha256"})
    (record / "record.json").write_text(text)


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "out"])
def test_what_is_no_file_inside_the_record_is_never_read(record: Path, kind: str) -> None:
    path = record / "record.json"
    kept = path.read_bytes()
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        (record.parent / "elsewhere.json").write_bytes(kept)
        path.symlink_to("../elsewhere.json")
    with pytest.raises(BrokenRecordError, match=r"is a pipe|is a device|is a folder|leads out"):
        load_record(record)
    (finding, *_) = validate_record(record)
    assert finding.code == "record"


def test_a_record_that_is_too_long_or_too_deep_is_named_and_costs_itself(
    record: Path, rawcells: ModuleType, tmp_path: Path
) -> None:
    for name, text in (("long", " " * (RECORD_BYTES + 1)), ("deep", "[" * 100_000)):
        folder = record.parent / name
        folder.mkdir()
        (folder / "record.json").write_text(text)
    loaded = load_records([record.parent])
    assert [found.path for found in loaded.records] == [record]
    reasons = {skipped.path.name: skipped.reason for skipped in loaded.skipped}
    assert f"at most {RECORD_BYTES:,} are read" in reasons["long"]
    assert "nested more than 64 levels deep" in reasons["deep"]
    shown = chipmark.load(record.parent, strict=False)
    assert len(shown) == 1
    assert len(shown.skipped) == 2
    assert shown.render("csv").count("\n") == 2


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("where", ["metric", "details", "manifest"])
def test_a_number_that_is_not_finite_is_refused(record: Path, text: str, where: str) -> None:
    path = record / "record.json"
    document = json.loads(path.read_text())
    mark = 123456.789
    if where == "metric":
        document["metrics"]["values"]["decode_tok_s"] = mark
    elif where == "details":
        document["metrics"]["details"]["own"] = [{"deep": mark}]
    else:
        document["manifest"]["slo"]["tpot_s"] = mark
    changed_text = document_text(document).replace(str(mark), text)
    blank = json.loads(document_text(document))["self_sha256"]
    zeros = changed_text.replace(blank, "0" * 64)
    digest = hashlib.sha256(zeros.encode()).hexdigest()
    path.write_text(zeros.replace("0" * 64, digest))
    with pytest.raises(BrokenRecordError, match=r"finite|nan|inf"):
        load_record(record)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("manifest", "concurrency"), 0),
        (("manifest", "chip", "used"), 0),
        (("manifest", "chip", "of"), -1),
        (("manifest", "slo", "tpot_s"), 0),
        (("manifest", "workload", "scale"), ["1/0", "1", "1"]),
        (("manifest", "workload", "n_new"), 10**30),
        (("metrics", "values", "decode_tok_s"), 10**400),
        (("metrics", "details", "work_tokens_per_session"), "many"),
        (("metrics", "details", "energy"), {"idle_w": 3}),
    ],
)
def test_a_number_out_of_its_range_is_refused_with_its_field(
    record: Path, path: tuple[str, ...], value: object
) -> None:
    changed(record, *path, value=value)
    with pytest.raises(BrokenRecordError) as caught:
        load_record(record)
    assert path[-1] in caught.value.message or path[-2] in caught.value.message
    assert len(caught.value.message) <= 500


def test_a_records_own_details_never_take_the_place_of_what_was_found(record: Path) -> None:
    changed(record, "metrics", "details", value={"not_ranked": [], "rank_by": "mine", "own": 1})
    (row,) = chipmark.load(record).rows()
    assert row.details["rank_by"] != "mine"
    assert row.details["not_ranked"]
    assert row.details["own"] == 1


def npz(**members: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return content.getvalue()


def header(shape: str) -> bytes:
    text = f"{{'descr': '<i4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (npz(tokens=header("(10000000,)") + bytes(40_000_000)), "bytes of arrays in"),
        (npz(tokens=header("(1000000000000,)") + bytes(80)), "more than its"),
        (b"", "not a whole npz archive"),
    ],
)
def test_a_trace_that_declares_more_than_it_holds_is_a_finding(
    record: Path, content: bytes, says: str
) -> None:
    sealed(record, "trace.npz", content)
    (finding,) = validate_record(record)
    assert finding.code == "raw"
    assert says in finding.text


def test_a_table_of_many_rows_in_few_bytes_is_a_finding(record: Path) -> None:
    table = pyarrow.table({name: np.zeros(2_000_000) for name in ("time_s", "energy_j", "power_w")})
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    sealed(record, "idle-before.parquet", sink.getvalue())
    (finding,) = validate_record(record)
    assert "declares 2,000,000 rows" in finding.text


def test_a_shape_that_cannot_be_is_a_finding_and_no_traceback(record: Path) -> None:
    document = json.loads((record / "record.json").read_text())
    config = document["manifest"]["model"]["config"] or {"eos_ids": ["x"]}
    changed(record, "manifest", "model", "config", value=config | {"eos_ids": ["x"]})
    (finding,) = validate_record(record)
    assert finding.code == "raw"
