"""`chipmark chips list|show`: the catalogue, every number with its source."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import typer

from chipmark.cli.own_files import CHIPS_FILE

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    help="Chips and CPUs of the catalogue, every number with its source.",
)


@app.command("list")
def list_chips(
    chips: Path | None = CHIPS_FILE,
    format_: str = typer.Option("rich", "--format", help="rich or json."),
) -> None:
    """List every chip and CPU.

    Example: chipmark chips list
    """
    from chipmark.chips.catalogue import catalogue
    from chipmark.table.listing import name, number, show, words
    from chipmark.terminal.console import check_format, emit_json, stdout
    from chipmark.user_files import using

    check_format(format_, ("rich", "json"))
    with using(chips=chips):
        known = catalogue()
    if format_ == "json":
        listed = [dataclasses.asdict(entry) for entry in known.chips.values()]
        emit_json(listed + [dataclasses.asdict(entry) for entry in known.cpus.values()])
        return
    heads = ("memory", "bandwidth", "16-bit", "TDP", "cap")
    chip_rows = [
        [chip.name, chip.vendor]
        + [str(q) for q in (chip.memory, chip.bandwidth, chip.rate_16bit, chip.tdp, chip.cap)]
        for chip in known.chips.values()
    ]
    console = stdout()
    show(console, [name("chip"), words("vendor"), *map(number, heads)], chip_rows)
    console.print()
    cpu_rows = [
        [
            cpu.name,
            cpu.vendor,
            "unknown" if cpu.threads.value is None else f"{cpu.threads.value:g}",
            str(cpu.tdp),
            "assumed for a family" if cpu.assumed else "",
        ]
        for cpu in known.cpus.values()
    ]
    cpu_heads = ("threads", "TDP")
    cpu_columns = [name("CPU (a socket)"), words("vendor"), *map(number, cpu_heads), words("")]
    show(console, cpu_columns, cpu_rows)


@app.command("show")
def show_chip(
    chip: str = typer.Argument(..., metavar="NAME", help="A name of `chipmark chips list`."),
    chips: Path | None = CHIPS_FILE,
    format_: str = typer.Option("rich", "--format", help="rich or json."),
) -> None:
    """Show one entry with the source, date and confidence of each number.

    Example: chipmark chips show nvidia-h20
    """
    from chipmark.chips.catalogue import Quantity, catalogue
    from chipmark.table.listing import name, show, words
    from chipmark.terminal.console import check_format, emit_json, stdout
    from chipmark.user_files import using

    check_format(format_, ("rich", "json"))
    with using(chips=chips):
        entry = catalogue().entry(chip)
    if format_ == "json":
        emit_json(dataclasses.asdict(entry))
        return
    rows = []
    for field in dataclasses.fields(entry):
        value: Any = getattr(entry, field.name)
        if isinstance(value, Quantity):
            rows.append([field.name, str(value), value.confidence, value.date, value.source])
        elif field.name != "title" and value != "":
            rows.append([field.name, _plain(value), "", "", ""])
    columns = [name("field"), words("value"), words("confidence"), name("date"), words("source")]
    show(stdout(), columns, rows, title=entry.title)


def _plain(value: Any) -> str:
    """A field that is not a number with a source: patterns and names, one after another."""
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
