"""`chipmark cost`: what a session and a million tokens cost, and the chip price to break even."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from chipmark.results.record import Record
    from chipmark.table.costing import Costing

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)


@app.command()
def cost(
    runs: list[Path] = typer.Argument(..., help="Records, or folders that hold records."),
    prices: Path | None = typer.Option(None, help="Price book; default: the example of 2026."),
    reference: str = typer.Option(
        "", help="Record id or backend to break even with; default: the first with a cost."
    ),
    format_: str = typer.Option("rich", "--format", help="rich or json."),
) -> None:
    """Price stored records by a book: nothing is measured again.

    In the equal_n scenario a cost is that of this very load, all day (`~`), and is not ranked. The
    break-even price is the chip's price at which its session costs what the reference's does.

    Examples:

      chipmark cost runs/quick

      chipmark cost runs/here runs/there --prices book.toml --reference torch:cuda --format json
    """
    from chipmark.cli.console import check_format, emit_json, stdout, warn
    from chipmark.errors import BrokenRecordError, NothingToJudgeError
    from chipmark.prices.book import EXAMPLE, load_book
    from chipmark.results.store import load_records
    from chipmark.table.costing import break_even, price

    check_format(format_, ("rich", "json"))
    book = load_book(prices or EXAMPLE)
    loaded = load_records(runs)
    for skipped in loaded.skipped:
        warn(f"left out {skipped.path}: {skipped.reason}")
    if not loaded.records:
        if loaded.skipped:
            raise BrokenRecordError(runs[0], "no record could be read")
        raise NothingToJudgeError("there is no record to price", "chipmark run quick -o DIR")
    priced = [(record, price(record, book)) for record in loaded.records]
    base = _reference(priced, reference)
    rows = [
        {
            "id": record.id,
            "backend": record.manifest.backend,
            "chip": record.manifest.chip.name,
            "unit": record.manifest.chip.unit,
            "scenario": record.manifest.scenario,
            "currency": book.currency,
            "cost_per_session": costing.cost_per_session,
            "cost_per_mtok": costing.cost_per_mtok,
            "daily_active_agents": costing.daily_active_agents,
            "break_even_chip_price": None if base is None else break_even(costing, base[1]),
            "reference": None if base is None else base[0].id,
            "null_reasons": dict(costing.reasons),
            "details": costing.details,
            "notes": [{"code": code, "text": text} for code, text in costing.notes],
        }
        for record, costing in priced
    ]
    if format_ == "json":
        emit_json(rows)
    else:
        stdout().print(_table(rows, book.currency))
        for line in _remarks(rows):
            stdout().print(line, soft_wrap=True, markup=False)
        source = (prices or EXAMPLE).name
        warn(f"prices: {source} of {book.date}, VAT {book.vat}")
    if loaded.skipped:
        raise BrokenRecordError(
            loaded.skipped[0].path, f"{len(loaded.skipped)} records could not be read"
        )


def _reference(priced: list[tuple[Record, Costing]], name: str) -> tuple[Record, Costing] | None:
    from chipmark.errors import UnknownNameError

    if name:
        for record, costing in priced:
            if name in (record.id, record.manifest.backend):
                return record, costing
        known = {record.manifest.backend for record, _ in priced} | {r.id for r, _ in priced}
        raise UnknownNameError("reference", name, known)
    return next((pair for pair in priced if pair[1].cost_per_session is not None), None)


def _table(rows: list[dict[str, Any]], currency: str) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"cost in {currency}")
    for name in ("backend", "chip", "scenario"):
        table.add_column(name)
    for name in ("session", "M tokens", "agents a day", "break-even chip price"):
        table.add_column(name, justify="right")

    def shown(row: dict[str, Any], name: str) -> str:
        value = row[name]
        mark = "~" if row["scenario"] == "equal_n" and name.startswith("cost") else ""
        return "-" if value is None else f"{mark}{value:,.4g}"

    for row in rows:
        table.add_row(
            escape(row["backend"]),
            escape(f"{row['chip']} ({row['unit']})"),
            row["scenario"],
            *(
                shown(row, name)
                for name in (
                    "cost_per_session",
                    "cost_per_mtok",
                    "daily_active_agents",
                    "break_even_chip_price",
                )
            ),
        )
    return table


def _remarks(rows: list[dict[str, Any]]) -> list[str]:
    from chipmark.metrics.codes import NULL_REASONS

    lines: dict[str, None] = {}
    for row in rows:
        for name, code in row["null_reasons"].items():
            lines[f"{row['backend']}: no {name}: {NULL_REASONS.get(code, code)} ({code})"] = None
        for note in row["notes"]:
            lines[f"{row['backend']}: {note['text']}"] = None
    return list(lines)
