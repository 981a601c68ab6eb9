"""`chipmark export`: stored results as a file that pytest-benchmark reads."""

from __future__ import annotations

from pathlib import Path

import typer

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)


@app.command()
def export(
    folder: Path = typer.Argument(..., help="A stored run, a record, or a folder of records."),
    out: Path = typer.Option(..., "-o", "--out", help="JSON file to write; - is stdout."),
    force: bool = typer.Option(False, "--force", help="Replace a file that is there."),
) -> None:
    """Write pytest-benchmark's JSON: an imported run byte for byte, or records of cells.

    A cell becomes a benchmark for each of its times (total work, TTFT, TPOT) in seconds; its
    rates, energy and identity are in extra_info under `chipmark`.

    Examples:

      chipmark export runs/quick -o quick.json

      pytest-benchmark compare quick.json
    """
    from rich.markup import escape

    from chipmark.benchmark_json.export import export_of, write_export
    from chipmark.cli.records import name_skipped, refuse_skipped
    from chipmark.terminal.console import stderr

    found = export_of(folder)
    name_skipped(found.skipped)
    write_export(found.text, out, force=force)
    if str(out) != "-":
        stderr().print(escape(f"wrote {out}"))
    refuse_skipped(found.skipped)
