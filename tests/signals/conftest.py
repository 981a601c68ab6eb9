"""Runs that are killed, and the counted report at the end of a trial of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from chipmark.results.store import find_records, load_record
from chipmark.results.validate import validate_record

MARK = "CHIPMARK_TEST_SIGNALS"
"""Variable by which a test finds everything that was started for it."""

GONE_S = 20.0
ENDS_S = 120.0
COUNTS = "trial of kills"
"""The property of a test under which it keeps what it counted."""


@dataclass
class Place:
    """A folder for records with a TMPDIR, a cache and a mark of its own."""

    root: Path
    backends: tuple[str, ...]
    mark: str = field(default_factory=lambda: f"{os.getpid()}-{time.monotonic_ns()}")

    def __post_init__(self) -> None:
        self.temporary.mkdir(parents=True)

    @property
    def out(self) -> Path:
        return self.root / "runs"

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    def start(self) -> subprocess.Popen[str]:
        """`chipmark run` of the backends, small."""
        words = [sys.executable, "-m", "chipmark.entry", "run", "quick", "-m", "tiny"]
        for backend in self.backends:
            words += ["-b", backend]
        words += ["--scale", "1/16,1/64,0", "--sessions", "2", "--concurrency", "2"]
        words += ["--repeats", "1", "--threads", "1", "-o", str(self.out), "--format", "json"]
        environment = os.environ | {
            "TMPDIR": str(self.temporary),
            "CHIPMARK_CACHE": str(self.root / "cache"),
            "OMP_NUM_THREADS": "1",
            MARK: self.mark,
        }
        return subprocess.Popen(
            words,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )

    def half_records(self) -> list[str]:
        """Folders of the output that are seen without being a whole record, with what is wrong."""
        if not self.out.is_dir():
            return []
        found = [p.name for p in self.out.iterdir() if not p.name.startswith(".")]
        whole = {path.name for path in find_records([self.out])}
        wrong = [name for name in found if name not in whole]
        for path in find_records([self.out]):
            wrong += [
                f"{path.name}: {f.code}" for f in validate_record(path) if f.severity == "error"
            ]
        return wrong

    def done(self) -> list[str]:
        """The backends whose records are done."""
        if not self.out.is_dir():
            return []
        manifests = [load_record(path).manifest for path in find_records([self.out])]
        return sorted(m.backend for m in manifests if m.status == "done")

    def scratch_bytes(self) -> int:
        """Bytes of hidden files and folders of the output, and of everything in TMPDIR."""
        hidden = list(self.out.glob(".*")) if self.out.is_dir() else []
        return sum(map(_bytes_of, [*hidden, *self.temporary.iterdir()]))

    def orphans(self) -> list[str]:
        """What runs on, once it has had the time to end."""
        end = time.monotonic() + GONE_S
        while (left := self._marked()) and time.monotonic() < end:
            time.sleep(0.05)
        return left

    def _marked(self) -> list[str]:
        found = []
        for process in psutil.process_iter():
            try:
                marked = process.environ().get(MARK) == self.mark
                if marked and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
            except (psutil.Error, OSError):
                continue
        return found


def _bytes_of(path: Path) -> int:
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return sum(p.stat().st_size for p in files)


def hit(process: subprocess.Popen[str], how: str) -> None:
    """End a run by the name of a signal, or by SIGKILL of it "alone" or with "all" below it."""
    if how in ("alone", "all"):
        below = []
        if how == "all":
            below = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for child in below:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue
    else:
        process.send_signal(getattr(signal, how))


@pytest.fixture(scope="session")
def signals() -> Any:
    """The tools of this folder, by name."""
    return sys.modules[__name__]
