"""The trial's modules are a package of the tests, and its counts are shown at the end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Appended, so that nothing of this folder's neighbours hides a package that is installed.
sys.path.append(str(Path(__file__).parent.parent))

_REPORT = pytest.StashKey[list[str]]()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> list[str]:
    """Lines that are shown at the end of the test run."""
    return request.config.stash.setdefault(_REPORT, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The counted report."""
    for line in terminalreporter.config.stash.get(_REPORT, []):
        terminalreporter.write_line(line)
