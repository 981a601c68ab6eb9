"""Tables of comma-separated values with a header, as `--query-gpu=... --format=csv` prints them."""

from __future__ import annotations

import re

from chipmark.meters.tools.printed import with_unit

_HEADED = re.compile(r"(?P<name>[^\[(]+?)\s*(?:[\[(](?P<unit>[^\])]*)[\])])?")

_LONGEST_LINE, _MOST_LINES = 4000, 4000

_SPELLINGS = {"celsius degree": "C", "watts": "W"}


def csv_rows(text: str, *needed: str) -> list[dict[str, str]]:
    """Rows by the names of the columns, in lower case and without units.

    The header is the first line that has all of the columns `needed`; a unit in it (`power.draw
    [W]`) is put behind numbers that have none. A row with another number of cells than the header
    is left out: which is missing cannot be seen. An empty cell beyond the header's does not count.
    """
    names: list[str] = []
    units: list[str] = []
    rows = []
    for line in text.splitlines()[:_MOST_LINES]:
        if len(line) > _LONGEST_LINE:
            continue
        if not names and not all(name in line.lower() for name in needed):
            continue
        cells = [cell.strip() for cell in line.split(",")]
        if not names:
            found = [_HEADED.fullmatch(cell) for cell in cells]
            plain = [match.group("name").strip().lower() if match else "" for match in found]
            if plain and all(name in plain for name in needed):
                names = plain
                units = [(match.group("unit") or "").strip() if match else "" for match in found]
                units = [_SPELLINGS.get(unit.lower(), unit) for unit in units]
            continue
        if len(cells) == len(names) + 1 and not cells[-1]:
            cells.pop()
        if len(cells) != len(names):
            continue
        row: dict[str, str] = {}
        for name, unit, cell in zip(names, units, cells, strict=True):
            row.setdefault(name, with_unit(cell, unit))
        rows.append(row)
    return rows
