from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from chipmark.results.store import find_records

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")

SMALL = [
    "--sessions",
    "1",
    "--concurrency",
    "1",
    "--scale",
    "1/64,1/64,0",
    "--repeats",
    "2",
    "--threads",
    "1",
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the one run goes whose record the tests below have copies of."""
    return tmp_path_factory.mktemp("measured") / "runs"


@pytest.fixture
def pending(chipmark, measured: Path, tmp_path: Path) -> Path:
    """A folder with a record of `torch:cpu` on `tiny` whose audit was not afforded."""
    if not measured.exists():
        arguments = ("-b", "torch:cpu", "-m", "tiny", "--audit-s", 0, "-o", measured)
        assert chipmark("run", "quick", *arguments, *SMALL, "--format", "json").code == 0
    return shutil.copytree(measured, tmp_path / "runs")


@needs_torch
def test_a_pending_audit_is_finished_next_to_the_record(chipmark, pending: Path) -> None:
    (record,) = find_records([pending])
    before = (record / "record.json").read_bytes()
    wrong = chipmark("audit", pending, "-m", "smollm2-135m@synthetic")
    assert wrong.code == 2
    assert "source hash" in wrong.err
    assert "-m PATH" in wrong.err
    no_device = chipmark("audit", pending, "--device", "nosuch")
    assert no_device.code == 2
    assert "--device nosuch" in no_device.err
    done = chipmark("audit", pending, "--limit-s", 1e9, "--device", "cpu:0")
    assert done.code == 0, done.err  # the way of an accelerator, on the CPU
    sidecar = json.loads((pending / f"{record.name}.audit.json").read_text())
    assert sidecar["device"] == "cpu:0"
    assert sidecar["device_rms_rel"] == 0.0
    assert sidecar["audit"]["verdict"] == "pass"
    assert (record / "record.json").read_bytes() == before

    again = chipmark("audit", pending, "--format", "json")
    assert again.code == 0
    assert [(row["verdict"], row["sidecar"]) for row in again.json] == [("pass", None)]
    anew = chipmark("audit", pending, "--again", "--format", "json")
    assert anew.code == 0
    assert anew.json[0]["sidecar"] == f"{record}.audit.json"


@needs_torch
def test_raw_files_that_were_changed_are_not_audited(chipmark, pending: Path) -> None:
    (record,) = find_records([pending])
    rows = record / "repeat-0" / "rows.parquet"
    rows.write_bytes(rows.read_bytes()[:-1] + b"x")
    answer = chipmark("audit", pending)
    assert answer.code == 2
    assert "rows.parquet" in answer.err
    assert "was changed after it was written" in answer.err
    assert not list(pending.glob("*.audit.json"))


def test_simulated_and_failed_cells(chipmark, faults: None, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    run = ("run", "quick", "-o", out, "--sessions", 2, "--repeats", 1)
    assert chipmark(*run, "-b", "sim:faulty-raise").code == 4
    nothing = chipmark("audit", out, "--format", "json")
    assert nothing.code == 3
    assert [row["verdict"] for row in nothing.json] == ["none"]
    chipmark(*run, "-b", "sim:golden")
    done = chipmark("audit", out, "--again", "--format", "json")
    assert done.code == 0
    assert sorted(row["verdict"] for row in done.json) == ["none", "pass"]


def test_an_audit_that_fails_is_exit_code_1(chipmark, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    chipmark("run", "quick", "-b", "sim:golden", "-o", out, "--sessions", 2, "--repeats", 1)
    (record,) = find_records([out])
    from chipmark.results.record import document_text

    document = json.loads((record / "record.json").read_text())
    document["manifest"]["audit"] |= {"verdict": "fail", "reason": "3 sampled ids are wrong"}
    (record / "record.json").write_text(document_text(document))
    answer = chipmark("audit", out)
    assert answer.code == 1
    assert "3 sampled ids are wrong" in answer.out


def test_where_there_is_nothing_to_audit(chipmark, tmp_path: Path) -> None:
    assert chipmark("audit", tmp_path).code == 3
    assert chipmark("audit", tmp_path / "absent").code == 2
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "record.json").write_text("{}")
    answer = chipmark("audit", tmp_path)
    assert answer.code == 2
    assert "broken" in answer.err
    shutil.rmtree(broken)


def test_a_reference_that_is_not_one_is_refused(chipmark, tmp_path: Path) -> None:
    for name, problem in (("absent.npz", "no such file"), ("text.npz", "not a whole npz archive")):
        path = tmp_path / name
        if name.startswith("text"):
            path.write_text("logits")
        run = ("run", "quick", "-b", "sim:golden", "-o", tmp_path / "runs", "--reference", path)
        answer = chipmark(*run)
        assert answer.code == 2
        assert name in answer.err
        assert problem in answer.err
