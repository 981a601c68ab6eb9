"""Cells that would not end within the budget of a run are left, and the others are measured."""

from __future__ import annotations

from pathlib import Path

import pytest

import chipmark
from chipmark.results.store import load_records

SUITE = """
[mine]
title = "t"
repeats = 1
idle_once = true
"""
CELLS = """
[[mine.cells]]
workload = "agent-code-32k"
scale = "1/256,1/64,0"
sessions = 1
backend = "sim:golden"
concurrency = {n}
estimate_s = {estimate_s}
"""


@pytest.mark.long
def test_a_cell_that_would_not_end_is_left_and_a_shorter_one_behind_it_is_measured(
    tmp_path: Path,
) -> None:
    file = tmp_path / "mine.toml"
    cells = [CELLS.format(n=n, estimate_s=s) for n, s in ((1, 1e9), (2, 0.001))]
    file.write_text(SUITE + "".join(cells))
    with pytest.raises(chipmark.CellsLeftError, match=r"1 of 2 cells were left: .* N=1") as found:
        chipmark.run(file, out=tmp_path / "out", budget_s=100)
    assert found.value.exit_code == 3
    records = load_records([tmp_path / "out"]).records
    assert [record.manifest.concurrency for record in records] == [2]
