"""Every example runs as its page says, on simulated devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """An example in a folder of its own, with this interpreter's programs first on PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    plain = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**plain, "PATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_quickstart_prints_a_table_and_its_rows(tmp_path):
    done = run(sys.executable, EXAMPLES / "quickstart.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "sim:golden" in done.stdout
    assert "parity pass" in done.stdout
    assert not list(tmp_path.iterdir())


def test_own_workload_is_measured_and_valid(tmp_path):
    done = run(EXAMPLES / "own_workload.sh", "sim:golden", "runs/own", cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "support-agent" in done.stdout
    assert list((tmp_path / "runs/own").glob("*/record.json"))


def test_the_kernel_bench_runs_under_pytest_benchmark(tmp_path):
    bench = EXAMPLES / "pytest_kernel_bench"
    options = ("--benchmark-only", "--chipmark-backend", "sim:golden", "-p", "no:cacheprovider")
    done = run(sys.executable, "-m", "pytest", bench, *options, "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


@pytest.mark.long
def test_two_commits_are_compared_in_turns(tmp_path):
    git = ("git", "-c", "user.name=example", "-c", "user.email=example@example.org")
    (tmp_path / "work.py").write_text("sum(range(1000))\n")
    for command in (("init", "-q"), ("add", "."), ("commit", "-qm", "one")):
        assert run(*git, *command, cwd=tmp_path).returncode == 0
    (tmp_path / "work.py").write_text("import time\ntime.sleep(0.3)\n")
    assert run(*git, "commit", "-qam", "two", cwd=tmp_path).returncode == 0
    script = EXAMPLES / "compare_two_commits.sh"
    done = run(script, "HEAD~1", "HEAD", sys.executable, "work.py", cwd=tmp_path)
    assert done.returncode in (1, 3), done.stderr  # 3: this machine is too busy to judge
    assert (tmp_path / "gate.md").exists()
    if done.returncode == 1:
        assert "regressed" in done.stdout.lower()


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_every_example_is_in_the_list_and_fits_a_screen(path):
    assert f"`{path.name}" in (EXAMPLES / "README.md").read_text() or path.name == "README.md"
    for file in [path] if path.is_file() else path.rglob("*.py"):
        assert len(file.read_text().splitlines()) <= 110, file


@pytest.mark.parametrize(
    "plugin", [pytest.param("backend_plugin", marks=pytest.mark.long), "meter_plugin"]
)
def test_a_plugin_passes_its_own_tests(tmp_path, plugin):
    folder = EXAMPLES / plugin
    options = ("-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path))
    done = run(
        sys.executable, "-m", "pytest", folder, *options, cwd=tmp_path, PYTHONPATH=str(folder)
    )
    assert done.returncode == 0, done.stdout


def installed(folder: Path, plugin: str) -> None:
    """What `pip install` leaves of a plug-in: its module and its entry points."""
    source = EXAMPLES / plugin
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    for module in source.glob("chipmark_*.py"):
        (folder / module.name).write_text(module.read_text())
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))


@pytest.mark.long
def test_an_installed_backend_is_measured_and_named(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    installed(site, "backend_plugin")
    options = ("-m", "tiny@synthetic", "--scale", "1/256,1/64,0", "--repeats", "1")
    small = (*options, "--sessions", "2", "--concurrency", "2", "-o", "runs")
    done = run(
        "chipmark", "run", "quick", "-b", "recompute:cpu", *small,
        cwd=tmp_path, PYTHONPATH=str(site),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(next((tmp_path / "runs").glob("*/record.json")).read_text())
    assert record["manifest"]["parity"]["verdict"] == "pass"
    assert "chipmark-recompute" in json.dumps(record["manifest"])
