"""Records for a command that shows them: what could be read, and what is reported of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chipmark.prices.book import PriceBook
    from chipmark.results.store import Skipped
    from chipmark.table.read import Sheets


def readable(runs: Sequence[Path], book: PriceBook) -> Sheets:
    """The sheets of the records under the paths; a record that cannot be read is named on stderr.

    Raises BrokenRecordError where none can be read, NothingToJudgeError where there is none.
    """
    from chipmark.api.records import check_readable
    from chipmark.table.read import read_sheets

    found = read_sheets(runs, book)
    name_skipped(found.skipped)
    check_readable(len(found.sheets), found.skipped, runs)
    return found


def folders_of(runs: Sequence[Path]) -> list[Path]:
    """The folders of records under the paths; NothingToJudgeError where there is none."""
    from chipmark.api.records import no_records
    from chipmark.results.store import find_records

    folders = find_records(runs)
    if not folders:
        raise no_records(runs)
    return folders


def name_skipped(skipped: Sequence[Skipped]) -> None:
    """A line on stderr for each record that was left out."""
    from chipmark.terminal.console import warn

    for record in skipped:
        warn(f"left out {record.path}: {record.reason}")


def refuse_skipped(skipped: Sequence[Skipped]) -> None:
    """Raise BrokenRecordError where a record was left out, after the others were shown."""
    from chipmark.errors import BrokenRecordError

    if skipped:
        raise BrokenRecordError(skipped[0].path, f"{len(skipped)} records could not be read")
