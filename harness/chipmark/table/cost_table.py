"""The rows of a table as a table of money: costs, agents served, and break-even prices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from chipmark.codes import meaning
from chipmark.foreign_text import plain_text
from chipmark.table.cells import MISSING, number_text, people_text
from chipmark.table.costing import MONEY
from chipmark.table.layout import TextColumn, text_tables, wrapped
from chipmark.table.listed import Numbered
from chipmark.table.rows import TableRow

BREAK_EVEN = "break_even_chip_price"

_COLUMNS: tuple[TextColumn, ...] = (
    TextColumn("#", "right"),
    TextColumn("backend", "left"),
    TextColumn("cost/\nsession", "right"),
    TextColumn("cost/\nMtok", "right"),
    TextColumn("agents\na day", "right"),
    TextColumn("break-even\nchip price", "right"),
    TextColumn("chip", "left"),
    TextColumn("unit", "left"),
    TextColumn("scenario", "left"),
)


def cost_object(row: TableRow) -> dict[str, Any]:
    """The JSON object of a row: its money, why some is null, and what bars it from a ranking."""
    details = row.details
    nulls: dict[str, str] = {n: row.null_reasons[n] for n in MONEY if n in row.null_reasons}
    if details["break_even_null_reason"]:
        nulls[BREAK_EVEN] = details["break_even_null_reason"]
    names = ("backend", "chip", "unit", "scenario", "currency", *MONEY)
    return {
        "id": details["record"],
        **{name: row.values[name] for name in names},
        BREAK_EVEN: details[BREAK_EVEN],
        "baseline": details["baseline"],
        "rank": row.rank,
        "comparable": row.values["comparable"],
        "refusals": details["break_even_refusals"],
        "null_reasons": nulls,
        "marks": {name: details["marks"].get(name, []) for name in MONEY},
        "notes": row.values["notes"],
        "details": details,
    }


def cost_text(rows: Iterable[TableRow], width: int) -> str:
    """The table for people, and remarks below it. Nothing is cut. Rows are taken one by one."""
    body, remarks, currency = [], Numbered(), None
    bases: dict[str, None] = {}
    for index, row in enumerate(rows, 1):
        body.append(_texts(index, row))
        remarks.add(index, _remarks(row))
        currency = currency or row.values["currency"]
        bases[str(row.details["baseline"] or "none")] = None
    lines = [f"cost in {currency}; break-even with {plain_text(', '.join(bases))}", ""]
    lines += text_tables(_COLUMNS, body, width, lead=2)
    lines.append("")
    legend = (
        "~ rests on an assumption or is true of this very load; ≥ ≤ a bound. "
        "- null, with its reason below."
    )
    for text in (legend, *remarks.lines()):
        lines += wrapped(plain_text(text), width)
    return "\n".join(lines) + "\n"


def price_text(value: float | None) -> str:
    """A chip price: whole units of currency from 100 on."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if value >= 100 else number_text(value)


def _texts(index: int, row: TableRow) -> list[str]:
    texts = [
        str(index),
        people_text(row, "backend"),
        *(people_text(row, name) for name in MONEY),
        price_text(row.details[BREAK_EVEN]),
        *(people_text(row, name) for name in ("chip", "unit", "scenario")),
    ]
    return [plain_text(text) for text in texts]


def _remarks(row: TableRow) -> list[str]:
    texts = [f"{note['code']}: {note['text']}" for note in row.values["notes"]]
    by_reason: dict[str, list[str]] = {}
    for name in MONEY:
        if reason := row.null_reasons.get(name):
            by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        texts.append(f"no {', '.join(names)}: {meaning(reason)} ({reason})")
    refusals = row.details["break_even_refusals"]
    reason = row.details["break_even_null_reason"]
    if refusals:
        texts.append(f"no break-even price: {'; '.join(refusals)}")
    elif reason and reason not in by_reason:
        texts.append(f"no break-even price: {meaning(reason)} ({reason})")
    return texts
