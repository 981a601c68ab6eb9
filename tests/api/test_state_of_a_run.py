"""Notes on the state of a device through a whole run: into the record, the row, and its rank."""

from __future__ import annotations

import importlib.util
import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import chipmark
from chipmark.cell import repeat
from chipmark.chips import device_users, identify
from chipmark.chips.catalogue import catalogue
from chipmark.chips.contract import ChipIdentity
from chipmark.chips.detect import identify_vendor
from chipmark.codes import FindingCode
from chipmark.results.write import write_recomputed

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="a run of torch:cpu"
)

ASCEND = Path(__file__).parents[1] / "meters/tools/data/npu-smi-25.2.0-910B4-1.toml"
NO_PROCESSES = "| No running processes found in NPU 0".ljust(97) + "|"

Change = Callable[[int], None]


class Timeline:
    """A reporter that changes a device as the repeats pass."""

    def __init__(self, change: Change) -> None:
        self.change, self.repeat = change, 0

    def say(self, text: str) -> None:
        pass

    def stage(self, text: str) -> None:
        if "repeat " in text:
            self.repeat += 1
            self.change(self.repeat)

    def steps(self, total: int) -> None:
        pass

    def step(self) -> None:
        pass


def run_on_cpu(folder: Path, change: Change) -> tuple[chipmark.Record, dict[str, Any]]:
    """The one record of torch:cpu whose chip is who `identify_cpu` says, and its row."""
    records = chipmark.run(
        "func-call", "torch:cpu", models="tiny", precision="fp32", concurrency=1,
        scale="0.02,0.02,0", sessions=1, repeats=3, budget_s=0, idle_s=0, audit_s=0, threads=1,
        out=folder, reporter=Timeline(change),
    )  # fmt: skip
    return records[0], records.table()[0]


def noted(record: chipmark.Record) -> set[str]:
    return {str(note.code) for note in record.notes}


def barred(row: dict[str, Any]) -> str:
    """Why the row is not ranked for speed."""
    return "; ".join(row["details"]["not_ranked"])


def test_an_even_throttle_from_the_first_repeat_is_not_ranked(tmp_path: Path) -> None:
    records = chipmark.run(
        "quick", ["sim:golden", "sim:hot"], sessions=1, budget_s=0, out=tmp_path / "runs"
    )
    rows = {row["backend"]: row for row in records.table(baseline="sim:golden")}
    golden, hot = rows["sim:golden"], rows["sim:hot"]
    assert golden["rank"] == 1
    assert (hot["rank"], hot["comparable"]) == (None, [])
    assert "clock_below_nominal: sim-hot: 800 MHz under load, 80%" in barred(hot)
    assert "80% of its nominal 1000 MHz" in records.render("md")
    assert [r.validate() for r in records] == [[], []]
    for row, clock, heat in ((golden, 1000.0, 60.0), (hot, 800.0, 95.0)):
        states = row["details"]["state"]
        assert [state["repeat"] for state in states] == [0, 1, 2]
        for state in states:
            assert state["clock_least_mhz"] == state["clock_median_mhz"] == clock
            assert (state["temperature_most_c"], state["nominal_mhz"]) == (heat, 1000.0)
    for record in records:
        write_recomputed(tmp_path / "again", record.stored)
    again = {row["backend"]: row for row in chipmark.load(tmp_path / "again").table()}
    assert again["sim:hot"]["details"]["state"] == hot["details"]["state"]
    assert again["sim:hot"]["rank"] is None


@needs_torch
@pytest.mark.long
def test_every_note_of_a_card_bars_its_row(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    install_nvml: Callable[..., Any],
    paper_nvml: ModuleType,
) -> None:
    card = paper_nvml.PaperCard(clock=1980, most=1980, celsius=50, errors=0, pids=[], reasons=0)
    install_nvml(card)

    def named(device: str, *, key: Any = None) -> ChipIdentity | None:
        return identify.identify_nvidia("cuda", key=key) if device == "cpu" else None

    monkeypatch.setattr(identify, "identify_cpu", named)
    monkeypatch.setattr(device_users, "_in_container", lambda: False)

    def change(repeat: int) -> None:
        if repeat == 2:
            card.pids, card.errors, card.clock = [1], 2, 1400
        if repeat == 3:
            card.limit, card.reasons, card.celsius = 500_000, 0x8 | 0x40, 91

    record, row = run_on_cpu(tmp_path / "runs", change)
    bars = {
        "clock_below_nominal", "other_processes", "ecc_errors", "state_changed",
        "throttled_thermal", "throttled_hardware",
    }  # fmt: skip
    assert bars <= noted(record)
    assert row["comparable"] == []
    assert row["rank"] is None
    assert all(code in barred(row) for code in bars)
    first, second, third = row["details"]["state"]
    assert (first["other_processes"], second["other_processes"]) == (0, 1)
    assert (first["clock_share"], second["clock_uncapped_mhz"]) == (1.0, 1400)
    assert third["throttle"] == ["hw_slowdown", "hw_thermal_slowdown"]
    assert (third["temperature_most_c"], third["power_limit_w"]) == (91, 500.0)
    assert FindingCode.MANIFEST not in {finding.code for finding in record.validate()}


@needs_torch
@pytest.mark.long
def test_a_vendors_tool_sees_an_even_throttle_and_a_guest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "npu-smi.d"
    folder.mkdir()
    program = folder / "npu-smi"
    program.write_text('#!/bin/sh\ncat "${0%/*}/$(echo "$*" | tr " " _)"\n')
    program.chmod(0o755)

    def prints(curfreq: int, others: int) -> None:
        """A busy 910B4-1 with our own process and `others` on it."""
        for answer in tomllib.loads(ASCEND.read_text())["answer"]:
            text = answer["text"].replace("C1:00.0  | 0  ", "C1:00.0  | 90 ")
            text = text.replace("curFreq(MHZ)            : 800", f"curFreq(MHZ) : {curfreq}")
            rows = [
                f"| 0       0                 | {pid} | python | 120 |" for pid in range(others)
            ]
            text = text.replace(NO_PROCESSES, "\n".join(["| 0 0 | 77 | python | 120 |", *rows]))
            (folder / answer["arguments"].replace(" ", "_")).write_text(text)

    prints(1650, 0)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    chip = identify_vendor(catalogue().vendors["Huawei"], "910B4-1", tmp_path)
    monkeypatch.setattr(identify, "identify_cpu", lambda device, key=None: chip)
    # Its gauge never rests, which is a note of its own.
    monkeypatch.setattr(repeat, "busy_at_rest", lambda source: None)

    def change(number: int) -> None:
        prints(1650 if number == 1 else 1320, int(number == 3))

    record, row = run_on_cpu(tmp_path / "runs", change)
    assert {"clock_below_nominal", "other_processes", "throttle_unknown"} <= noted(record)
    assert row["comparable"] == []
    first, second, third = row["details"]["state"]
    assert (first["source"], first["clock_share"]) == ("npu-smi", 1.0)
    assert (second["clock_uncapped_mhz"], second["other_processes"]) == (1320, 0)
    assert third["other_processes"] == 1
    assert first["remarks"][0].startswith("unverified on hardware")


@needs_torch
@pytest.mark.long
def test_nothing_readable_is_said_and_bars_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", "")
    entry = catalogue().vendors["Huawei"]
    chip = identify_vendor(entry, "910B4-1", tmp_path)
    monkeypatch.setattr(identify, "identify_cpu", lambda device, key=None: chip)
    record, row = run_on_cpu(tmp_path / "runs", lambda repeat: None)
    said = noted(record)
    assert "throttle_unknown" in said
    assert not said & {"clock_below_nominal", "other_processes", "ecc_errors", "state_changed"}
    assert [state["source"] for state in row["details"]["state"]] == ["", "", ""]
    assert row["details"]["state"][0]["throttle"] is None
    assert "throttle" not in barred(row)
