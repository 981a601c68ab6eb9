"""Ten thousand records in one folder: in bounded memory, and in time that grows as they do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest

from chipmark.api.records import load
from chipmark.history.observations import collect
from chipmark.prices.book import EXAMPLE, load_book
from chipmark.table.cost_table import cost_object, cost_text
from chipmark.table.document import table_parts
from chipmark.table.judged import judge
from chipmark.table.listed import Numbered
from chipmark.table.read import read_sheets
from chipmark.table.render import FORMATS
from chipmark.table.rows import each_row

MANY = 10_000
MOST_MB = 500
_START = """
import os
from chipmark.cli.main import entry
try:
    entry()
finally:
    # Of this program alone: what `wait4` says begins with the memory of the process that forked it.
    with open("/proc/self/status") as status, open(os.environ["STATUS"], "w") as out:
        out.write(status.read())
"""


@pytest.fixture(scope="module")
def folders(many_records: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    make, home = many_records.make_records, tmp_path_factory.mktemp("many")
    return {
        "cells": make(home / "cells", MANY),
        "series": make(home / "series", MANY, series=True),
        "base": make(home / "base", MANY // 2, first=100),
        "new": make(home / "new", MANY // 2, first=100),
    }


@pytest.mark.long
@pytest.mark.parametrize(
    ("command", "code"),
    [
        *((f"table cells --format {form}", 2) for form in FORMATS),
        ("table cells --all", 2),
        ("cost cells", 2),
        ("cost cells --format json", 2),
        ("history series --format json --store STORE", 0),
        ("gate base new --format json", 2),
    ],
)
def test_ten_thousand_records_take_bounded_memory(
    folders: dict[str, Path], command: str, code: int, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    places = {name: str(path) for name, path in folders.items()}
    places["STORE"] = str(tmp_path / "store.parquet")
    words = [places.get(word, word) for word in command.split()]
    begun = time.monotonic()
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", _START, *words],
            stdout=out,
            stderr=err,
            cwd=tmp_path,
            env={**os.environ, "STATUS": str(tmp_path / "status")},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    said = (tmp_path / "err").read_text()
    lines = (tmp_path / "status").read_text().splitlines()
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    peak_mb = int(peak) * 1024 / 1e6
    with capsys.disabled():
        print(
            f"\n{command}: {usage.ru_utime:.1f} s of user time, "
            f"{time.monotonic() - begun:.1f} s, {peak_mb:.0f} MB"
        )
    assert process.returncode == code, said[-2000:]
    assert peak_mb < MOST_MB
    if words[0] in ("table", "cost"):
        assert "cell-000077" in said
        assert "1 records could not be read" in said


def calls(work: Callable[[], Any]) -> int:
    """How many functions, Python's own included, are called."""
    count = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def _tables(folder: Path) -> None:
    sheets = read_sheets([folder], load_book(EXAMPLE)).sheets
    for form in FORMATS:
        assert "".join(table_parts(sheets, form))
    assert "".join(table_parts(sheets, "rich", all_columns=True))
    judged = judge(sheets, None, "cost_per_session")
    assert cost_text(each_row(judged), 120)
    assert [cost_object(row) for row in each_row(judged)]


@pytest.mark.parametrize("series", [False, True])
@pytest.mark.parametrize(
    "work",
    [_tables, collect, lambda folder: load(folder).compare()],
    ids=["table", "history", "api"],
)
def test_twice_the_records_are_twice_the_work(
    many_records: ModuleType, tmp_path: Path, work: Callable[[Path], Any], series: bool
) -> None:
    half, whole = (
        many_records.make_records(tmp_path / str(count), count, series=series, first=100)
        for count in (80, 160)
    )
    work(half)  # modules are imported, caches are filled
    assert calls(lambda: work(whole)) < 2.3 * calls(lambda: work(half))


def test_a_remark_that_is_true_of_every_row_is_numbered_at_once() -> None:
    compared = 0

    class Counted(int):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return int(self) == other

        def __ne__(self, other: object) -> bool:
            return not self == other

        __hash__ = int.__hash__

    remarks = Numbered()
    for number in map(Counted, range(1, 1001)):
        remarks.add(number, ["the same", "the same"])
    (line,) = remarks.lines()
    assert line.startswith("1, 2, 3, ")
    assert line.endswith(", 1000: the same")
    assert compared < 5000
