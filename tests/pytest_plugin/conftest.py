from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

STEP = "def test_step(chipmark):\n    chipmark.decode_step(batch=2, context=40, rounds=64)\n"


class Bench:
    """A project with benchmarks, and pytest in a process of its own where warnings are errors."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        pytester.makeini("[pytest]\nfilterwarnings = error\nchipmark_backend = sim:golden\n")

    def test(self, source: str = STEP) -> Bench:
        self.pytester.makepyfile(test_it=source)
        return self

    def run(self, *arguments: str) -> pytest.RunResult:
        return self.pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)

    def json(self, *arguments: str) -> dict[str, Any]:
        self.run("--benchmark-json=run.json", *arguments).assert_outcomes(passed=1)
        document: dict[str, Any] = json.loads((self.path / "run.json").read_text())
        return document

    @property
    def path(self) -> Path:
        return self.pytester.path


@pytest.fixture
def bench(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Bench:
    # Where these tests run in a worker of xdist, the inner run must not take itself for one.
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)
    return Bench(pytester)
