"""Records read and shown, timed by pytest-benchmark:

    pytest tests/bench/test_many_records.py --benchmark-only

No wall time is asserted; the tests themselves check that every record was shown.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chipmark.prices.book import EXAMPLE, load_book
from chipmark.results.many_records import many_objects
from chipmark.results.store import load_records
from chipmark.table.document import table_parts
from chipmark.table.read import read_sheets

RECORDS = 2_000


@pytest.fixture(scope="module")
def folder(many_records: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = many_records.make_records(
        tmp_path_factory.mktemp("bench") / "cells", RECORDS, first=100
    )
    return made


def test_two_thousand_records_are_loaded(benchmark: Any, folder: Path) -> None:
    loaded = benchmark.pedantic(load_records, ([folder],), rounds=3, warmup_rounds=1)
    assert len(loaded.records) == RECORDS


@pytest.mark.parametrize(
    "format",
    ["rich", "csv", *(pytest.param(name, marks=pytest.mark.long) for name in ("json", "html"))],
)
def test_two_thousand_records_are_shown(benchmark: Any, folder: Path, format: str) -> None:
    def show() -> int:
        with many_objects():
            sheets = read_sheets([folder], load_book(EXAMPLE)).sheets
            return sum(map(len, table_parts(sheets, format)))

    assert benchmark.pedantic(show, rounds=3, warmup_rounds=1) > 100 * RECORDS
