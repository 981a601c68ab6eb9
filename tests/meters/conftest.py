from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_calibrations(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A cache of the test's own: what was calibrated on this machine must not change a test."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CHIPMARK_CACHE", str(cache))
    return cache


class Time:
    """A clock that only sleeping moves."""

    now = 100.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def at() -> Time:
    return Time()
