"""Stage 3: what a call of the runner leaves of the records that it made."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from chipmark.errors import CellsLeftError
from chipmark.kernel_bench import end_to_end
from chipmark.kernel_bench.stages.contract import Asked, Stage
from chipmark.kernel_bench.stages.record_steps import LEAST_S, LEFT, STEPS, records

RECORD = Path(__file__).parents[1] / "results" / "data" / "record-1"


def asked(folder: Path, left_s: float = 300.0, have: frozenset[str] = frozenset()) -> Asked:
    return Asked(STEPS[0].parameters, have, folder, time.monotonic() + left_s)


def test_the_step_fits_the_contract() -> None:
    (step,) = STEPS
    assert step.stage is Stage.RECORDS
    assert len(step.about) <= 60
    assert step.repeats_after_failure


def test_a_call_tells_the_records_that_it_added_and_fails_while_cells_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(RECORD, tmp_path / "results" / "chip" / "old")
    ran: list[list[str]] = []
    codes = [3, 0]

    def main(words: list[str]) -> int:
        ran.append(words)
        shutil.copytree(RECORD, tmp_path / "results" / "chip" / f"new-{len(ran)}")
        return codes.pop(0)

    monkeypatch.setattr(end_to_end, "main", main)
    parts = records(asked(tmp_path))
    name, part = next(parts)
    assert name == "after 1 records"
    figures = part()
    assert figures is not None
    assert (figures["exit_code"], figures["main"]) == (3, "1 of 1 cells done")
    (cell,) = figures["cells"]
    assert (cell["status"], cell["parity"]) == ("done", "pass")
    assert cell["total_tok_s"] > 0
    assert ran[0][:2] == ["--pack", str(tmp_path / "records.tar.gz")]
    assert 280 <= float(ran[0][ran[0].index("--budget-s") + 1]) <= 295
    ((name, part),) = parts
    assert name == LEFT
    with pytest.raises(CellsLeftError, match="exit code 3"):
        part()
    # The next call measures those that are left, and then the step is done.
    parts = records(asked(tmp_path, have=frozenset(["after 1 records"])))
    name, part = next(parts)
    assert name == "after 2 records"
    part()
    assert list(parts) == []


def test_nothing_is_begun_in_too_little_time_and_nothing_saved_of_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(end_to_end, "main", lambda words: 3)
    ((name, part),) = records(asked(tmp_path, LEAST_S - 1))
    assert name == LEFT
    with pytest.raises(CellsLeftError, match="no time"):
        part()
    _, part = next(records(asked(tmp_path)))
    assert part() is None
