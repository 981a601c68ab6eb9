"""Records for a command that shows them: what could be read, and what is reported of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chipmark.prices.book import PriceBook
    from chipmark.table.read import Sheets


def readable(runs: Sequence[Path], book: PriceBook) -> Sheets:
    """The sheets of the records under the paths; a record that cannot be read is named on stderr.

    Raises BrokenRecordError where none can be read, NothingToJudgeError where there is none.
    """
    from chipmark.api.records import check_readable
    from chipmark.table.read import read_sheets
    from chipmark.terminal.console import warn

    found = read_sheets(runs, book)
    for skipped in found.skipped:
        warn(f"left out {skipped.path}: {skipped.reason}")
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


def refuse_skipped(found: Sheets) -> None:
    """Raise BrokenRecordError where a record was left out, after the others were shown."""
    from chipmark.errors import BrokenRecordError

    if found.skipped:
        raise BrokenRecordError(
            found.skipped[0].path, f"{len(found.skipped)} records could not be read"
        )
