"""Files of the meters next to a row's own, in both forms of a cell: which there are, and whose."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from chipmark.errors import BrokenRecordError
from chipmark.meters.contract import file_slug

POWER, IDLE_BEFORE, IDLE_AFTER = "power", "idle-before", "idle-after"
"""Names, without their endings, of the files that hold the readings of the row's meter."""

_ENDINGS = (".npz", ".parquet")


def power_file(of: str, meter: str) -> str:
    """Name, without its ending, of the file with the readings of a meter next to the row's, whose
    own is called `of`."""
    return f"{of}-{file_slug(meter)}"


def one_file_each(names: Iterable[str]) -> None:
    """ValueError where the readings of two meters would lie in one file."""
    taken: dict[str, str] = {}
    for name in names:
        slug = file_slug(name)
        if slug in taken:
            raise ValueError(f"{taken[slug]!r} and {name!r} are two meters of one file name")
        taken[slug] = name


def check_no_strays(folder: Path, of: str, meters: Iterable[str]) -> None:
    """BrokenRecordError for readings next to `of` in `folder` that are of none of the meters."""
    known = {power_file(of, name) for name in meters}
    for path in sorted(folder.glob(f"{of}-*")):
        if path.suffix in _ENDINGS and path.stem not in known:
            raise BrokenRecordError(path, "is of no meter that the manifest names", field="beside")
