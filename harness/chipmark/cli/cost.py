"""`chipmark cost`: what a session and a million tokens cost, and the chip price to break even."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from chipmark.cli.own_files import PRICES_FILE

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)


@app.command()
def cost(
    runs: list[Path] = typer.Argument(..., help="Records, or folders that hold records."),
    prices: Path | None = PRICES_FILE,
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
    from chipmark.results.many_records import many_objects
    from chipmark.table.cost_table import cost_object, cost_text
    from chipmark.table.judged import judge
    from chipmark.table.rows import each_row
    from chipmark.terminal.console import check_format, emit_json_list, stdout, warn

    check_format(format_, ("rich", "json"))
    book = load_book(prices or EXAMPLE)
    with many_objects():
        found = readable(runs, book)
        if not baseline:
            priced = (s for s in found.sheets if s.costing.cost_per_session is not None)
            baseline = next((s.subject.id for s in priced), "")
        rows = each_row(judge(found.sheets, baseline or None, "cost_per_session"))
        if format_ == "json":
            emit_json_list(cost_object(row) for row in rows)
        else:
            sys.stdout.write(cost_text(rows, stdout().width))
            sys.stdout.flush()
            source = (prices or EXAMPLE).name
            warn(f"prices: {source} of {book.date}, VAT {book.vat}")
    refuse_skipped(found.skipped)
