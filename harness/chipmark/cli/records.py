"""Records for a command that shows them: what could be read, and what is reported of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chipmark.api.records import Records


def readable(runs: Sequence[Path]) -> Records:
    """The records under the paths; one that cannot be read is named on stderr.

    Raises BrokenRecordError where none can be read, NothingToJudgeError where there is none.
    """
    from chipmark.api.records import records_of
    from chipmark.results.store import load_records
    from chipmark.terminal.console import warn

    loaded = load_records(runs)
    for skipped in loaded.skipped:
        warn(f"left out {skipped.path}: {skipped.reason}")
    return records_of(loaded, runs)


def folders_of(runs: Sequence[Path]) -> list[Path]:
    """The folders of records under the paths; NothingToJudgeError where there is none."""
    from chipmark.api.records import no_records
    from chipmark.results.store import find_records

    folders = find_records(runs)
    if not folders:
        raise no_records(runs)
    return folders


def refuse_skipped(records: Records) -> None:
    """Raise BrokenRecordError where a record was left out, after the others were shown."""
    from chipmark.errors import BrokenRecordError

    if records.skipped:
        raise BrokenRecordError(
            records.skipped[0].path, f"{len(records.skipped)} records could not be read"
        )
