"""Runs with a bad plug-in next to good cells, by the real entry points and the real command.

The variable FIRST, where a test gives it, is a folder to be first on PYTHONPATH.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from chipmark.results.record import Record
from chipmark.results.store import find_records, load_record

MARK = "CHIPMARK_TEST_FAULTS"
"""Variable by which a test finds everything that was started for it."""

ENDS_S = 600
"""A run that has not ended by then hangs."""

END = "the end"

PLUGIN = Path(__file__).with_name("bad_plugin.py")


@dataclass(frozen=True)
class Ran:
    """A run's exit code and stderr, the records that it left, when its lines came, and who was
    left running."""

    code: int
    err: str
    out: Path
    stages: tuple[tuple[float, str], ...]
    left: tuple[str, ...]

    def record(self, backend: str) -> Record:
        """The record of a backend's cell."""
        records = [load_record(path) for path in find_records([self.out])]
        (found,) = [record for record in records if record.manifest.backend == backend]
        return found

    def failure(self, backend: str) -> str:
        """Why a cell failed; "" where it did not."""
        failure = self.record(backend).manifest.failure
        return "" if failure is None else failure.text

    def longest_s(self, backend: str) -> float:
        """The longest time from a stage of this cell to what is logged next. After idle power all
        cells are ended and audited, which belongs to no cell."""
        stages = [(at, text) for at, text in self.stages if text.startswith(("INFO", END))]
        gaps = zip(stages, [at for at, _ in stages[1:]], strict=False)
        return max(
            (
                after - at
                for (at, text), after in gaps
                if backend in text and "idle power after" not in text
            ),
            default=0.0,
        )


def install(folder: Path) -> Path:
    """The plug-in as an installed distribution; returns what to put on PYTHONPATH."""
    info = folder / "bad-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "bad_plugin.py").write_text(PLUGIN.read_text())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[chipmark.backends]\nbad = bad_plugin:Backend\n")
    return folder


def run(root: Path, backends: Sequence[str], *more: object, **variables: str) -> Ran:
    """`chipmark run` of these backends on `tiny`, with every stage logged."""
    out = root / "runs"
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    paths = [str(install(root / "site")), *filter(None, [os.environ.get("PYTHONPATH")])]
    if "FIRST" in variables:
        paths.insert(0, variables["FIRST"])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "CHIPMARK_CACHE": str(root / "cache"),
        "CHIPMARK_LOG": "info",
        "OMP_NUM_THREADS": "1",
        MARK: mark,
        **variables,
    }
    words: list[object] = [sys.executable, "-m", "chipmark.entry", "run", "quick", "-m", "tiny"]
    for backend in backends:
        words += ["-b", backend]
    words += ["--scale", "1/16,1/64,0", "--sessions", 2, "--concurrency", 2, "--repeats", 1]
    words += ["-o", out, "--format", "json", "--audit-s", 0, *more]
    lines: list[tuple[float, str]] = []
    with subprocess.Popen(
        list(map(str, words)),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append((time.monotonic(), line))
        code = process.wait(ENDS_S)
    lines.append((time.monotonic(), END))
    return Ran(code, "".join(text for _, text in lines), out, tuple(lines), tuple(marked(mark)))


def marked(mark: str) -> list[str]:
    """The command lines of processes that bear the mark and run."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.environ().get(MARK) == mark
                and process.status() != psutil.STATUS_ZOMBIE
                and process.pid != os.getpid()
            ):
                found.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            continue
    return found


@pytest.fixture(scope="session")
def run_with_faults():
    """`run`: a command line with bad plug-ins."""
    return run
