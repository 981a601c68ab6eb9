"""How values look to people and in files: digits and marks of doubt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from chipmark.foreign_text import csv_text
from chipmark.table.rows import TableRow
from chipmark.table.sheet import Mark

MISSING = "-"
_GLYPHS: Mapping[Mark, str] = {"at_least": "≥", "at_most": "≤", "assumed": "~", "this_load": "~"}


def people_text(row: TableRow, name: str) -> str:
    """A value for people: three or four digits, `-` for null, `~` before what rests on an
    assumption or is true of this load alone, `≥` and `≤` before a bound."""
    value = row.values[name]
    if value is None:
        return MISSING
    if name == "comparable":
        return " ".join(value) or "none"
    if name == "notes":
        return " ".join(dict.fromkeys(note["code"] for note in value))
    if isinstance(value, str):
        return value
    return _mark(row, name) + number_text(value)


def number_text(value: float) -> str:
    """Four significant digits from 1 on, three below; integers whole."""
    if isinstance(value, (bool, int)):
        return str(value)
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    magnitude = math.floor(math.log10(abs(value)))
    if 0 <= magnitude < 6:
        return f"{value:.{max(0, 3 - magnitude)}f}"
    if -4 <= magnitude < 0:
        return f"{value:.{2 - magnitude}f}"
    return f"{value:.2e}"


def file_text(value: Any) -> str:
    """A value for CSV: full digits, empty for null, and nothing that a spreadsheet would run."""
    if value is None:
        return ""
    if isinstance(value, list):
        text = "; ".join(f"{i['code']}: {i['text']}" if isinstance(i, dict) else i for i in value)
    elif isinstance(value, str):
        text = value
    else:
        return repr(value)
    return csv_text(text)


def _mark(row: TableRow, name: str) -> str:
    marks = row.details.get("marks", {}).get(name, ())
    return "".join(dict.fromkeys(_GLYPHS[mark] for mark in marks))
