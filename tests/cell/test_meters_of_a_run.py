"""Several meters through whole runs of the command: files, notes, column, and computed again."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chipmark.results.record import Record
from chipmark.results.store import find_records, load_record

PLUGIN = Path(__file__).with_name("paper_meters.py")
SMALL = ("--scale", "1/16,1/16,0", "--sessions", "3", "--concurrency", "1", "--budget-s", "0")


def command(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command line with the paper meters installed."""
    info = root / "site/paper-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (root / "site/paper_meters.py").write_text(PLUGIN.read_text())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: paper\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[chipmark.meters]\nplug = paper_meters:Plug\nhost = paper_meters:Host\n"
    )
    (root / "plug").write_text("310.0")
    paths = (str(root / "site"), os.environ.get("PYTHONPATH", ""))
    variables = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "CHIPMARK_TEST_METERS": str(root),
        "CHIPMARK_CACHE": str(root / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "chipmark.entry", *words],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )


def measured(root: Path, *words: str) -> tuple[Record, dict[str, Any]]:
    """The one record of a run of `tiny` on the CPU, and its row."""
    out = str(root / "runs")
    run = ("run", "quick", "-b", "torch:cpu", "-m", "tiny", *SMALL, "--audit-s", "0")
    done = command(root, *run, "-o", out, "--format", "json", *words)
    assert done.returncode == 0, done.stderr
    (path,) = find_records([root / "runs"])
    (row,) = json.loads(done.stdout)
    return load_record(path), row


needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="the cell computes on torch:cpu"
)


@needs_torch
@pytest.mark.long
def test_host_and_wall_stand_next_to_the_rows_own_and_one_of_them_dies(tmp_path: Path) -> None:
    (tmp_path / "host").write_text("41.25")
    record, row = measured(tmp_path, "--repeats", "3")
    manifest = record.manifest
    assert manifest.status == "done"
    assert [meter.name for meter in manifest.beside] == ["paper host", "paper plug"]
    assert manifest.beside_plugins["paper plug"].distribution == "paper"
    # The host's sensor went away in the second run: a note, one file, and a whole cell.
    notes = [note.text for note in manifest.notes if note.code == "meter"]
    (gone,) = [text for text in notes if text.startswith("paper host")]
    assert "the host's sensor went away. plug it in" in gone
    files = sorted(name for name in record.files if "power-" in name)
    assert files == [
        "repeat-0/power-paper-host.parquet",
        *(f"repeat-{index}/power-paper-plug.parquet" for index in range(3)),
    ]
    entries = {entry["name"]: entry for entry in row["details"]["energy"]["beside"]}
    assert entries["paper plug"]["power_w"] == pytest.approx(310.0, rel=0.02)
    assert entries["paper host"]["power_w"] == pytest.approx(41.25, rel=0.02)
    assert (entries["paper plug"]["repeats"], entries["paper host"]["repeats"]) == (3, 1)
    host, wall = (f"{entries[name]['power_w']:.1f} W" for name in ("paper host", "paper plug"))
    assert row["power_beside"] == f"host package {host}; wall {wall}"
    assert row["power_scope"] != "wall"

    runs, again = str(tmp_path / "runs"), str(tmp_path / "again")
    valid = command(tmp_path, "validate", runs)
    assert valid.returncode == 0, valid.stdout
    recomputed = command(tmp_path, "recompute", runs, "-o", again)
    assert recomputed.returncode == 0, recomputed.stdout + recomputed.stderr
    (path,) = find_records([Path(again)])
    new = load_record(path)
    assert new.metrics.values == record.metrics.values
    assert new.metrics.details["energy"] == record.metrics.details["energy"]
    table = command(tmp_path, "table", again, "--format", "csv")
    assert str(row["power_beside"]) in table.stdout


@needs_torch
@pytest.mark.long
def test_a_named_meter_gives_the_rows_joules(tmp_path: Path) -> None:
    record, row = measured(
        tmp_path, "--repeats", "1", "--idle-s", "0", "--power-w", "65",
        "--meter", "declared", "--meter", "plug",
    )  # fmt: skip
    assert record.manifest.meter is not None
    assert record.manifest.meter.name == "declared"
    assert row["power_w"] == pytest.approx(65.0)
    assert row["power_beside"].startswith("wall 3")
    assert record.manifest.options["meters"] == ["declared", "plug"]


def test_a_named_meter_that_cannot_be_read_ends_a_run_before_any_weights(tmp_path: Path) -> None:
    run = ("run", "quick", "-b", "torch:cpu", "-m", "tiny", "-o", str(tmp_path / "runs"))
    done = command(tmp_path, *run, "--meter", "plug", "--meter", "host")
    assert done.returncode == 2
    assert "--meter host: the host's sensor is not there" in done.stderr
    assert "plug it in" in done.stderr
    assert not any((tmp_path / "cache").rglob("*"))
    unknown = command(tmp_path, *run, "--meter", "plugg")
    assert unknown.returncode == 2
    assert "plugg" in unknown.stderr
    assert "plug" in unknown.stderr.replace("plugg", "")
    assert not any((tmp_path / "cache").rglob("*"))
    assert not list((tmp_path / "runs").glob("*/record.json"))
