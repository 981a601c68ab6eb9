"""What a backend tells of its device, from the child through the record to the row."""

from __future__ import annotations

import json
from pathlib import Path

from chipmark.cli.main import main


def test_operators_emulation_memory_and_ways_of_launches_are_told(
    faults: None, tmp_path: Path, capsys
) -> None:
    command = ["run", "quick", "-b", "sim:faulty-elsewhere", "--scale", "1/256,1/64,0"]
    command += ["--sessions", "2", "--concurrency", "2", "--repeats", "2", "-o", str(tmp_path)]
    assert main([*command, "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    texts = {note["code"]: note["text"] for note in row["notes"]}
    assert texts["ep_coverage"] == (
        "left to the host's CPU: TopK x1 (0.00% of FLOPs, 30.00% of bytes), "
        "Softmax x30 (0.10% of FLOPs, 2.00% of bytes)"
    )
    assert texts["emulated"].startswith("a golden emulator: ")
    assert row["comparable"] == []
    assert any(why.startswith("emulated: ") for why in row["details"]["not_comparable"]["perf"])
    (path,) = tmp_path.glob("*/record.json")
    load = json.loads(path.read_text())["manifest"]["load"]
    assert load["emulated"] == "a golden emulator"
    assert load["host_operators"][0] == {
        "name": "Softmax", "count": 30, "flops_share": 0.001, "bytes_share": 0.02,
    }  # fmt: skip
    # Steps are counted in it, and those of parity come before those of two repeats.
    assert row["peak_device_bytes"] == load["peak_device_bytes"] > 7_020
    assert load["details"]["launches"]["decode:graph"] == load["peak_device_bytes"] - 7_000
