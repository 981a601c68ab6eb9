"""`chipmark table`: stored records as one table, with a price book."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from chipmark.cli.own_files import PRICES_FILE

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)


@app.command()
def table(
    runs: list[Path] = typer.Argument(..., help="Records, or folders that hold records."),
    baseline: str = typer.Option("", help="The row to compare with: a record's id or a backend."),
    rank_by: str = typer.Option(
        "",
        help="The column to rank and compare by; default, for each kind of work: total_tok_s, "
        "ttft_p95_s (p50, or that of cold turns) where the load sets that, sessions_per_hour in "
        "the capacity scenario.",
    ),
    across_precision: bool = typer.Option(
        False, "--across-precision", help="Show ratios between precision classes, unranked."
    ),
    prices: Path | None = PRICES_FILE,
    format_: str = typer.Option("rich", "--format", help="rich, md, csv, json or html."),
    all_columns: bool = typer.Option(
        False, "--all", help="Every column in the formats for people."
    ),
) -> None:
    """Print records as one table; rows that are not comparable are shown and not ranked.

    Examples:

      chipmark table runs/quick

      chipmark table runs/here runs/there --baseline torch:cuda --rank-by tok_per_joule

      chipmark table runs/quick --format json | jq '.[].decode_tok_s'
    """
    print_table(
        runs,
        prices,
        format_,
        baseline=baseline,
        rank_by=rank_by,
        all_columns=all_columns,
        across_precision=across_precision,
    )


def print_table(
    runs: Sequence[Path],
    prices: Path | None,
    format_: str,
    *,
    baseline: str = "",
    rank_by: str = "",
    all_columns: bool = False,
    across_precision: bool = False,
) -> None:
    """Load, build and render on stdout. Records left out are named on stderr, and then exit 2."""
    from rich.console import Console

    from chipmark.cli.records import readable, refuse_skipped
    from chipmark.prices.book import EXAMPLE, load_book
    from chipmark.results.many_records import many_objects
    from chipmark.table.document import table_parts
    from chipmark.table.render import FORMATS
    from chipmark.terminal.console import check_format, warn

    check_format(format_, FORMATS)
    book_path = prices or EXAMPLE
    book = load_book(book_path)
    # Where stdout is not a terminal, a width that the user exports counts; without one it is 120.
    known_width = sys.stdout.isatty() or bool(os.environ.get("COLUMNS"))
    console = Console(emoji=False) if format_ == "rich" and known_width else None
    with many_objects():
        found = readable(runs, book)
        parts = table_parts(
            found.sheets,
            format_,
            baseline or None,
            rank_by or None,
            across_precision=across_precision,
            all_columns=all_columns,
            console=console,
        )
        for part in parts:
            sys.stdout.write(part)
    sys.stdout.flush()
    if format_ == "rich":
        warn(f"prices: {book_path.name}" + ("" if prices else " (the default; --prices BOOK)"))
    refuse_skipped(found.skipped)
