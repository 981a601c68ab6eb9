from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from chipmark.cell import meters_here
from chipmark.meters.simulated_sensor import SENSORS

SIM = ("--meter", "sim:averaged,noise_w=0.5", "--virtual-clock")


@pytest.fixture(autouse=True)
def _nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without chips that have meters, and a cache of its own."""
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(meters_here, "chips_here", lambda: ([], []))


@pytest.mark.parametrize("command", [("calibrate",), ("watch", "--once")])
def test_where_nothing_is_here_exit_3_says_what_would_help(
    chipmark: Any, command: tuple[str, ...]
) -> None:
    answer = chipmark("power", *command)
    assert answer.code == 3
    assert answer.out == ""
    assert "no power meter is here" in answer.err
    assert "--meter sim:pulsed" in answer.err


def test_the_help_names_every_simulated_sensor(chipmark: Any) -> None:
    said = chipmark("power", "watch", "--help").out
    assert all(sensor in said for sensor in SENSORS)


def test_a_calibration_is_shown_kept_and_forgotten(chipmark: Any, tmp_path: Path) -> None:
    answer = chipmark("power", "calibrate", *SIM)
    assert answer.code == 0, answer.err
    assert "sim:averaged" in answer.out
    (file,) = (tmp_path / "cache/meters").glob("*.json")
    assert str(file) in answer.err
    (found,) = chipmark("power", "calibrate", *SIM, "--format", "json").json
    assert found["update_period_s"]["value"] == pytest.approx(0.1, rel=0.05)
    assert found["averaging_s"]["value"] == pytest.approx(1.0, rel=0.15)
    assert found["idle_w"]["value"] == pytest.approx(80, rel=0.01)
    assert found["resolution_w"]["value"] == pytest.approx(1.0)
    named = ("--forget", "--meter", "sim:averaged", "--format", "json")
    assert chipmark("power", "calibrate", *named).json == {"forgotten": 1}
    chipmark("power", "calibrate", *SIM)
    assert chipmark("power", "calibrate", "--forget", "--format", "json").json == {"forgotten": 1}
    assert not file.exists()


def test_what_cannot_be_seen_is_null_with_its_reason(chipmark: Any) -> None:
    answer = chipmark("power", "calibrate", "--meter", "sim:constant", "--virtual-clock")
    assert answer.code == 0
    assert "update_period_s: null, its value never changed" in answer.out
    answer = chipmark("power", "calibrate", *SIM, "--no-load")
    assert "averaging_s: null, no load was run" in answer.out


def test_a_reading_of_a_simulated_meter(chipmark: Any) -> None:
    answer = chipmark("power", "watch", "--meter", "sim:pulsed", "--once", "--interval", "0.05")
    assert answer.code == 0
    assert "sim:pulsed" in answer.out
    assert "watts" in answer.out
    (reading,) = chipmark(
        "power", "watch", "--meter", "sim:pulsed", "--once", "--format", "json"
    ).json
    assert 75 < reading["power_w"] < 85
    looks = chipmark(
        *("power", "watch", "--meter", "sim:counter", "--interval", "0.2", "--seconds", "0.5"),
        *("--format", "json"),
    ).json
    assert len(looks) == 3
    assert looks[2][0]["energy_j"] > looks[0][0]["energy_j"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("calibrate", "--meter", "sim:pulsd"), "pulsed"),
        (("calibrate", "--meter", "nvlm"), "nvml"),
        (("watch", "--once", "--format", "yaml"), "json"),
        (("calibrate", "--idle-s", "5"), "30"),
    ],
)
def test_wrong_usage_names_what_is_right(
    chipmark: Any, arguments: tuple[str, ...], word: str
) -> None:
    answer = chipmark("power", *arguments)
    assert answer.code == 2
    assert word in answer.err


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    cache = tmp_path / "own"
    run = subprocess.Popen(
        [sys.executable, "-m", "chipmark.entry", "power", "calibrate", "--meter", "sim:pulsed"],
        env=os.environ | {"CHIPMARK_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    # Until it sleeps: idle takes half a minute.
    process, end = psutil.Process(run.pid), time.monotonic() + 30
    while process.cpu_times().user < 0.3 and time.monotonic() < end:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=30)
    assert run.returncode == 130
    assert out == b""
    assert b"Traceback" not in err
    assert not cache.exists()
