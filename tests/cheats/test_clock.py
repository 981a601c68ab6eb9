"""Backends whose times are not the machine's, run by the real command: validate finds each.

Every plug-in is a distribution of its own with an entry point, in a folder on the path.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

pytest.importorskip("torch")

LIMIT_S = 300

IMPORTS = """
import time
from dataclasses import replace
from chipmark.backends.torch_device.backend import TorchBackend
from chipmark.engine import clock, loop
"""

SLOW_CLOCK = """
class Slow:
    start = time.perf_counter()

    def now(self):
        return self.start + (time.perf_counter() - self.start) / 3

class Backend(TorchBackend):
    def __init__(self, device):
        super().__init__(device)
        self.clock = self._clock = Slow()
"""
"""A clock of the backend's own whose second lasts three."""

SLOW_ENGINE = """
start, real = time.perf_counter(), clock.perf_counter
clock.perf_counter = lambda: start + (real() - start) / 3
Backend = TorchBackend
"""
"""The same for everything in the child that reads the engine's clock."""

SLOW_RUN = """
class Slow(clock.MonotonicClock):
    def __init__(self):
        self.start = super().now()

    def now(self):
        return self.start + (super().now() - self.start) / 3

class Backend(TorchBackend):
    def submit(self, step):
        self._clock = self.engine  # times of launches fit into the steps
        super().submit(step)

def slow():
    Backend.engine = Slow()
    return Backend.engine

loop.MonotonicClock = slow
"""
"""The same while the engine runs: before and after, the child's clock is right."""

THIRD = """
class Backend(TorchBackend):
    def wait(self):
        done = super().wait()
        third = [replace(x, end_s=x.start_s + (x.end_s - x.start_s) / 3) for x in done.launches]
        return replace(done, launches=tuple(third))

    def probe_read(self, n_bytes):
        return super().probe_read(n_bytes) / 2
"""
"""A third of each launch, and half the roof."""

THIRD_AS_HOST = """
class Backend(TorchBackend):
    def wait(self):
        done = super().wait()
        third = [
            replace(x, end_s=x.start_s + (x.end_s - x.start_s) / 3, host_s=x.end_s - x.start_s)
            for x in done.launches
        ]
        return replace(done, launches=tuple(third))
"""
"""A third of each launch, and the rest as time of the host."""

PART_AS_HOST = THIRD_AS_HOST.replace("/ 3", "* 0.6")
"""Two fifths of each launch as time of the host, on a device that is the host."""

HONEST = "Backend = TorchBackend\n"


def write_plugin(site: Path, name: str, source: str) -> None:
    """A distribution `name` whose module has the class `Backend`, known as `name:DEVICE`."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{name}.py").write_text(IMPORTS + dedent(source))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[chipmark.backends]\n{name} = {name}:Backend\n")


def command(root: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`chipmark ARGUMENTS` in a process of its own that knows the plug-in."""
    before = os.environ.get("PYTHONPATH")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(root / "site"), *([before] if before else [])]),
        "CHIPMARK_CACHE": str(root / "cache"),
        "COLUMNS": "200",
    }
    code = "from chipmark.cli.main import entry; entry()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=LIMIT_S, check=False,
    )  # fmt: skip


def measured(root: Path, source: str) -> tuple[set[str], dict[str, Any], int]:
    """Codes of what validate finds in a small run of a plug-in, its row, and validate's exit."""
    write_plugin(root / "site", "plugged", source)
    size = ("--scale", "1/16,1/16,0", "--sessions", 2, "--concurrency", 2, "--repeats", 3)
    where = (*size, "--threads", 1, "--budget-s", 0, "-o", root / "runs")
    ran = command(root, "run", "quick", "-b", "plugged:cpu", "-m", "tiny", *where)
    assert ran.returncode == 0, ran.stderr
    answer = command(root, "validate", root / "runs", "--format", "json")
    findings = json.loads(answer.stdout)["findings"]
    (row,) = json.loads(command(root, "table", root / "runs", "--format", "json").stdout)
    codes = {finding["code"] for finding in findings if finding["severity"] == "error"}
    return codes, row, answer.returncode


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (SLOW_CLOCK, "clock"),
        (SLOW_ENGINE, "clock"),
        (SLOW_RUN, "clock"),
        (THIRD, "uncovered_time"),
        (THIRD_AS_HOST, "uncovered_time"),
        (PART_AS_HOST, "uncovered_time"),
    ],
    ids=[
        "own-clock",
        "engine-clock",
        "clock-of-the-run",
        "third-of-launches",
        "rest-as-host",
        "part-as-host",
    ],
)
def test_false_times_are_found_and_not_ranked(tmp_path: Path, source: str, code: str) -> None:
    codes, row, exit_code = measured(tmp_path, source)
    assert codes == {code}
    assert exit_code == 1
    assert row["comparable"] == []
    assert "clock" in {note["code"] for note in row["notes"]}


def test_an_honest_plug_in_passes(tmp_path: Path) -> None:
    codes, row, exit_code = measured(tmp_path, HONEST)
    assert codes == set()
    assert exit_code == 0
    assert "clock" not in {note["code"] for note in row["notes"]}
