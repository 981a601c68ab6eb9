"""A reader that leaves (`| head`), a closed or a full stdout: the exit code is the verdict's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest

from chipmark.benchmark_json.stats import stats_of

ENTRY = [sys.executable, "-c", "from chipmark.cli.main import entry; entry()"]
RECORD = Path(__file__).parents[1] / "results" / "data" / "record-1"


def run(arguments: list[str], tmp_path: Path, closed: str) -> int:
    """A command whose stdout (or stderr) has no reader from the start."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*ENTRY, *arguments],
            cwd=tmp_path,
            env={**os.environ, "CHIPMARK_CACHE": str(tmp_path / "cache")},
            stdout=writer if closed == "stdout" else subprocess.DEVNULL,
            stderr=writer if closed == "stderr" else subprocess.PIPE,
            timeout=120,
            check=False,
        )
    finally:
        os.close(writer)
    assert b"Traceback" not in (done.stderr or b"")
    assert b"BrokenPipe" not in (done.stderr or b"")
    return done.returncode


def file(path: Path, factor: float, n: int = 40) -> str:
    benchmarks = [
        {
            "fullname": f"t.py::test_{i}", "name": f"test_{i}",
            "stats": stats_of([factor * (1 + 0.001 * j) for j in range(12)]),
        }
        for i in range(n)
    ]  # fmt: skip
    assert fmean(benchmarks[0]["stats"]["data"]) > 0
    path.write_text(json.dumps({"version": "5.2.3", "benchmarks": benchmarks}), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("format_", ["rich", "json", "md"])
@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_the_verdict_keeps_its_exit_code(tmp_path, format_, closed):
    base, new = file(tmp_path / "base.json", 1.0), file(tmp_path / "new.json", 1.01)
    gone = file(tmp_path / "gone.json", 1.01, n=39)
    outputs = ["--format", format_, "--junit", "j.xml", "--annotations", "github"]
    assert run(["gate", base, new, *outputs], tmp_path, closed) == 3
    assert run(["gate", base, gone, *outputs], tmp_path, closed) == 1
    assert (tmp_path / "j.xml").read_text(encoding="utf-8").endswith("</testsuites>\n")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["gate", "--help"], 0),
        (["doctor", "--help"], 0),
        (["table", str(RECORD)], 0),
        (["table", str(RECORD), "--format", "json"], 0),
        (["chips", "list"], 0),
        (["models", "list"], 0),
        (["export", str(RECORD), "-o", "-"], 0),
        (["workload", "show", "no-such-workload"], 2),
        (["gate", "none.json", "none.json"], 3),
        (["nonsense"], 2),
    ],
)
@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_every_command_keeps_its_exit_code(tmp_path, arguments, code, closed):
    assert run(arguments, tmp_path, closed) == code


def test_a_reader_that_leaves_in_the_middle(tmp_path):
    base, new = file(tmp_path / "base.json", 1.0, 400), file(tmp_path / "new.json", 1.01, 400)
    environment = {**os.environ, "CHIPMARK_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(
        [*ENTRY, "gate", base, new], stdout=subprocess.PIPE, env=environment, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=120) == 3


def test_a_stdout_that_was_closed_before_the_start(tmp_path):
    command = f"{ENTRY[0]} -c '{ENTRY[2]}' gate {file(tmp_path / 'b.json', 1.0)} "
    command += f"{file(tmp_path / 'n.json', 1.01)} >&- 2>&-"
    environment = {**os.environ, "CHIPMARK_CACHE": str(tmp_path / "cache")}
    assert subprocess.run(["sh", "-c", command], env=environment, check=False).returncode == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_an_error_of_the_output(tmp_path):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*ENTRY, "table", str(RECORD)], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 2
    assert b"the output cannot be written (No space left on device)" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_stderr_ends_nothing(tmp_path):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*ENTRY, "table", str(RECORD)], stdout=subprocess.PIPE, stderr=full, check=False
        )
    assert done.returncode == 0
    assert done.stdout
