"""Backends that flatter themselves, as distributions of their own, run by the real command."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from chipmark.results.record import Record
from chipmark.results.store import find_records, load_record

if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]  # every backend here is derived from torch:cpu

LIMIT_S = 300

_QUICK = ("test_watched.py",)
"""What scripts/test runs of this folder without --all: a cheat found by the audit."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each test here is a whole run of the command line."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.path.name not in _QUICK:
            item.add_marker(pytest.mark.long)


PRELUDE = Path(__file__).with_name("prelude.py").read_text()
"""What the source of every plug-in starts with."""


@dataclass(frozen=True)
class Plugin:
    """A distribution that was written to a folder of its own."""

    folder: Path
    backend: str
    """`KIND:DEVICE` for the command line."""


@dataclass(frozen=True)
class Ran:
    """A command line's answer, and the records that it left."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def record(self) -> Record:
        """The one record, with what lies next to it."""
        (path,) = find_records([self.folder])
        return load_record(path)


@dataclass(frozen=True)
class Machine:
    """A place where plug-ins are installed and the command line is run; no cache is shared."""

    root: Path

    def run(self, *arguments: object, plugins: tuple[Plugin, ...] = ()) -> Ran:
        """`chipmark ARGUMENTS`, in a process of its own that knows the plug-ins."""
        before = os.environ.get("PYTHONPATH")
        paths = [*(str(plugin.folder) for plugin in plugins), *([before] if before else [])]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "CHIPMARK_CACHE": str(self.root / "cache"),
            "OMP_NUM_THREADS": "1",  # threads that wait for each other take longer than `tiny`
            "COLUMNS": "200",
        }
        code = "from chipmark.cli.main import entry; entry()"
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True, text=True, env=environment, timeout=LIMIT_S, check=False,
        )  # fmt: skip
        return Ran(done.returncode, done.stdout, done.stderr, self.root / "runs")

    def measure(self, plugin: Plugin, *more: object) -> Ran:
        """A small run of a plug-in's backend on `tiny`: two sessions at once, contexts to 2,000
        tokens, short answers, two repeats."""
        fixed: tuple[object, ...] = (
            "run",
            "quick",
            "-b",
            plugin.backend,
            "-m",
            "tiny",
            "--threads",
            1,
        )
        fixed += ("--scale", "1/16,1/64,0")
        fixed += () if "--sessions" in more else ("--sessions", 2)
        size: tuple[object, ...] = () if "--concurrency" in more else ("--concurrency", 2)
        out = ("--repeats", 2, "-o", self.root / "runs", "--format", "json")
        return self.run(*fixed, *size, *out, *more, plugins=(plugin,))

    def findings(self, *plugins: Plugin) -> list[dict[str, Any]]:
        """What `chipmark validate` finds in the records."""
        answer = self.run("validate", self.root / "runs", "--format", "json", plugins=plugins)
        assert answer.code in (0, 1), answer.err
        found: list[dict[str, Any]] = json.loads(answer.out)["findings"]
        return found


WritePlugin = Callable[..., Plugin]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def plugin(tmp_path: Path) -> WritePlugin:
    """Write a plug-in: `plugin(name, source)`, where the source defines `class Backend`."""

    def write(name: str, source: str, kind: str = "", group: str = "chipmark.backends") -> Plugin:
        folder = tmp_path / f"site-{name}"
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / f"{name}.py").write_text(PRELUDE + dedent(source))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{kind or name} = {name}:Backend\n")
        return Plugin(folder, f"{kind or name}:cpu")

    return write


@pytest.fixture
def codes() -> Callable[[list[dict[str, Any]]], set[str]]:
    """The codes of findings that are errors."""
    return lambda findings: {f["code"] for f in findings if f["severity"] == "error"}
