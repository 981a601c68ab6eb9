from __future__ import annotations

from pathlib import Path

import pytest

import chipmark


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def records(folder: Path) -> chipmark.Records:
    """Two simulated devices, measured once for all tests; not to be written into."""
    return chipmark.run(
        "quick", ["sim:golden", "sim:golden-slots"], sessions=2, budget_s=0, out=folder
    )
