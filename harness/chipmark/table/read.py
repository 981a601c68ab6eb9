"""Folders of records to sheets, without holding the records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from chipmark.prices.book import PriceBook
from chipmark.results.store import Skipped, each_record, find_records
from chipmark.table.sheet import Sheet, sheet


@dataclass(frozen=True, slots=True)
class Sheets:
    """Sheets in the order of the records' paths, and the records that could not be read."""

    sheets: tuple[Sheet, ...]
    skipped: tuple[Skipped, ...]


def read_sheets(paths: Iterable[Path], book: PriceBook | None) -> Sheets:
    """The sheets of every record under the paths. Raises what `store.find_records` does."""
    skipped: list[Skipped] = []
    sheets = tuple(sheet(record, book) for record in each_record(find_records(paths), skipped))
    return Sheets(sheets, tuple(skipped))
