from __future__ import annotations

from pathlib import Path

import pytest

import chipmark
from chipmark.api.suite import suite_and_workload

MINE = """
[mine]
repeats = 4
[[mine.cells]]
workload = ["func-call"]
concurrency = [1, 2]
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    return path


def test_built_in_suites_by_method_and_by_name() -> None:
    quick = chipmark.Suite.quick()
    assert (quick.name, quick.repeats, quick.budget_s) == ("quick", 3, 240.0)
    assert chipmark.Suite.named("standard") == chipmark.Suite.standard()
    assert chipmark.Suite.full().name == "full"
    with pytest.raises(chipmark.UnknownNameError) as caught:
        chipmark.Suite.named("quik")
    assert caught.value.near == ["quick"]


def test_a_suite_of_ones_own(mine: Path) -> None:
    suite = chipmark.Suite.read(mine)
    assert (suite.name, suite.repeats, suite.source) == ("mine", 4, str(mine))
    cells = suite.cells("sim:golden", "sim:golden-slots")
    assert [(c.backend, c.concurrency) for c in cells] == [
        ("sim:golden", 1), ("sim:golden-slots", 1), ("sim:golden", 2), ("sim:golden-slots", 2),
    ]  # fmt: skip


def test_a_suite_file_that_is_missing_or_wrong(mine: Path, tmp_path: Path) -> None:
    with pytest.raises(chipmark.BadInputError) as missing:
        chipmark.Suite.read(tmp_path / "other.toml")
    assert missing.value.path == str(tmp_path / "other.toml")
    mine.write_text(MINE.replace("repeats = 4", "repeats = 0"))
    with pytest.raises(chipmark.BadInputError) as wrong:
        chipmark.Suite.read(mine)
    assert wrong.value.field == "mine.repeats"


def test_a_suite_and_a_workload_are_told_apart(mine: Path, tmp_path: Path) -> None:
    workload = tmp_path / "work.toml"
    workload.write_text("[mywork]\n[mywork.sharing]\n")
    assert suite_and_workload(chipmark.Suite.full()) == ("full", "")
    assert suite_and_workload("standard") == ("standard", "")
    assert suite_and_workload(mine) == (str(mine), "")
    assert suite_and_workload("func-call") == ("quick", "func-call")
    assert suite_and_workload(workload) == ("quick", str(workload))


def test_a_name_of_neither_and_a_file_of_neither(tmp_path: Path) -> None:
    with pytest.raises(chipmark.UnknownNameError) as caught:
        suite_and_workload("func-cal")
    assert "func-call" in caught.value.near
    with pytest.raises(chipmark.BadInputError):
        suite_and_workload(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[")
    with pytest.raises(chipmark.BadInputError) as wrong:
        suite_and_workload(broken)
    assert wrong.value.path == str(broken)
