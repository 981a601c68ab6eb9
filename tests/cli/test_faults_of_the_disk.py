"""Every command that writes, on a disk that is full, read-only or gone: whole or not at all.

The disks are small tmpfs mounts in a mount namespace of their own, which ends with the command.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chipmark.benchmark_json.stats import stats_of

RECORD = Path(__file__).parents[1] / "results" / "data" / "record-1"
ENTRY = f"'{sys.executable}' -c 'from chipmark.cli.main import entry; entry()'"

WRITERS = {
    "run": "run quick -b sim:golden -m tiny -o {disk}/out",
    "import": "import {file} -o {disk}/out",
    "export": "export {record} -o {disk}/out.json",
    "history --store": "history {runs} --store {disk}/store.parquet",
    "history --plot": "history {runs} --plot {disk}/plot.svg",
    "gate --junit": "gate {file} {other} --junit {disk}/junit.xml",
    "gate --summary": "gate {file} {other} --summary {disk}/summary.md",
    "gate --store": "gate {disk}/base.json {file} --ci",
    "recompute": "recompute {record} -o {disk}/again",
}


def in_namespace(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script that may mount."""
    cache = folder / "cache"
    return subprocess.run(
        ["unshare", "-Urm", "bash", "-c", script],
        cwd=folder,
        env={**os.environ, "CHIPMARK_CACHE": str(cache), "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="session")
def mounts() -> None:
    """Skips where an ordinary user may not mount in a namespace of his own."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    done = subprocess.run(
        ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}")


@pytest.fixture
def words(tmp_path: Path) -> dict[str, str]:
    """What stands in the commands."""
    disk = tmp_path / "disk"
    disk.mkdir()
    runs = tmp_path / "runs"
    runs.mkdir()
    for number in range(3):
        name = runs / f"{number}.json"
        name.write_text(document(1 + number / 100, f"2026-01-0{number + 1}"), encoding="utf-8")
    shutil.copytree(RECORD, tmp_path / "record")
    named = {
        "disk": disk,
        "runs": runs,
        "file": runs / "0.json",
        "other": runs / "1.json",
        "record": tmp_path / "record",
    }
    return {name: str(path) for name, path in named.items()}


def document(factor: float, day: str) -> str:
    """A run of pytest-benchmark."""
    entry = {
        "fullname": "t.py::test_a", "name": "test_a",
        "stats": stats_of([factor * (1 + 0.001 * j) for j in range(12)]),
    }  # fmt: skip
    return json.dumps(
        {"version": "5.2.3", "datetime": f"{day}T00:00:00+00:00", "benchmarks": [entry]}
    )


def check(done: subprocess.CompletedProcess[str], command: str) -> None:
    """An error of one line that names the disk, exit code 2, and no part of a file."""
    said = done.stderr
    assert "Traceback" not in said, said
    assert "internal error" not in said, said
    assert done.returncode == 2, (command, done.returncode, done.stdout, said)
    assert "/disk" in said, said


@pytest.mark.parametrize("name", WRITERS)
def test_faults_of_a_full_disk(
    mounts: None, words: dict[str, str], tmp_path: Path, name: str
) -> None:
    command = WRITERS[name].format(**words)
    script = (
        f"mount -t tmpfs -o size=64k tmpfs '{words['disk']}'\n"
        f"cat /dev/zero > '{words['disk']}/filler' 2>/dev/null\n"
        f"{ENTRY} {command}; code=$?\n"
        f"ls -A '{words['disk']}'; exit $code"
    )
    done = in_namespace(script, tmp_path)
    check(done, command)
    left = set(done.stdout.split("\n")[-6:]) - {"", "filler", "out", "again"}
    assert not [name for name in left if name.startswith(".") or "partial" in name], done.stdout


@pytest.mark.parametrize("name", WRITERS)
def test_faults_of_a_read_only_disk(
    mounts: None, words: dict[str, str], tmp_path: Path, name: str
) -> None:
    command = WRITERS[name].format(**words)
    script = f"mount -t tmpfs -o ro tmpfs '{words['disk']}' && {ENTRY} {command}"
    check(in_namespace(script, tmp_path), command)


@pytest.mark.long
def test_faults_of_a_full_stdout_are_an_error_and_never_a_verdict(
    words: dict[str, str], tmp_path: Path
) -> None:
    for command in (
        "table {record}", "table {record} --format csv", "table {record} --format json",
        "cost {record}", "validate {record}", "doctor", "chips list", "models list",
        "history {runs} --format csv", "export {record} -o -", "gate {file} {other}",
    ):  # fmt: skip
        done = subprocess.run(
            ["bash", "-c", f"{ENTRY} {command.format(**words)} > /dev/full"],
            cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        # 3 is the verdict of what has nothing to judge; a verdict of 0 becomes 2.
        assert done.returncode in (2, 3), (command, done.returncode, done.stderr)
        assert done.stderr.count("the output cannot be written") == 1


def test_a_home_that_takes_no_files_is_replaced_and_named(
    words: dict[str, str], tmp_path: Path
) -> None:
    environment = {**os.environ, "HOME": "/dev/null", "TMPDIR": str(tmp_path)}
    for variable in ("CHIPMARK_CACHE", "CHIPMARK_CONFIG", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        environment.pop(variable, None)
    done = subprocess.run(
        ["bash", "-c", f"{ENTRY} run quick -b sim:golden -m tiny --repeats 1 -o {tmp_path}/out"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "is the cache instead" in done.stderr
