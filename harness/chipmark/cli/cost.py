"""`chipmark cost`: what a session and a million tokens cost, and the chip price to break even."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)


@app.command()
def cost(
    runs: list[Path] = typer.Argument(..., help="Records, or folders that hold records."),
    prices: Path | None = typer.Option(None, help="Price book; default: the example of 2026."),
    baseline: str = typer.Option(
        "",
        "--baseline",
        "--reference",
        help="Record id or backend to break even with; default: the first with a cost.",
    ),
    format_: str = typer.Option("rich", "--format", help="rich or json."),
) -> None:
    """Price stored records by a book: nothing is measured again.

    In the equal_n scenario a cost is that of this very load, all day (`~`), and is not ranked. The
    break-even price is the chip's price at which its session costs what the baseline's does; it is
    given only where the two rows may be compared in cost, and the reasons against it are listed.

    Examples:

      chipmark cost runs/quick

      chipmark cost runs/here runs/there --prices book.toml --baseline torch:cuda --format json
    """
    from chipmark.cli.records import readable, refuse_skipped
    from chipmark.prices.book import EXAMPLE, load_book
    from chipmark.table.cost_table import cost_object, cost_text
    from chipmark.table.costing import price
    from chipmark.terminal.console import check_format, emit_json, stdout, warn

    check_format(format_, ("rich", "json"))
    book = load_book(prices or EXAMPLE)
    records = readable(runs)
    if not baseline:
        priced = (r.id for r in records if price(r.stored, book).cost_per_session is not None)
        baseline = next(priced, "")
    rows = records.rows(baseline or None, "cost_per_session", book)
    if format_ == "json":
        emit_json([cost_object(row) for row in rows])
    else:
        sys.stdout.write(cost_text(rows, stdout().width))
        sys.stdout.flush()
        source = (prices or EXAMPLE).name
        warn(f"prices: {source} of {book.date}, VAT {book.vat}")
    refuse_skipped(records)
