"""`chipmark chips list|show`: the catalogue, every number with its source."""

from __future__ import annotations

import dataclasses
from typing import Any

import typer

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    help="Chips and CPUs of the catalogue, every number with its source.",
)


@app.command("list")
def list_chips(format_: str = typer.Option("rich", "--format", help="rich or json.")) -> None:
    """List every chip and CPU.

    Example: chipmark chips list
    """
    from rich.table import Table

    from chipmark.chips.catalogue import catalogue
    from chipmark.cli.console import check_format, emit_json, stdout

    check_format(format_, ("rich", "json"))
    known = catalogue()
    if format_ == "json":
        chips = [dataclasses.asdict(entry) for entry in known.chips.values()]
        emit_json(chips + [dataclasses.asdict(entry) for entry in known.cpus.values()])
        return
    table = Table("chip", "vendor", "memory", "bandwidth", "16-bit", "TDP", "cap")
    for chip in known.chips.values():
        numbers = (chip.memory, chip.bandwidth, chip.rate_16bit, chip.tdp, chip.cap)
        table.add_row(chip.name, chip.vendor, *(str(number) for number in numbers))
    stdout().print(table)
    cpus = Table("CPU (a socket)", "vendor", "threads", "TDP", "")
    for cpu in known.cpus.values():
        threads = "unknown" if cpu.threads.value is None else f"{cpu.threads.value:g}"
        flag = "assumed for a family" if cpu.assumed else ""
        cpus.add_row(cpu.name, cpu.vendor, threads, str(cpu.tdp), flag)
    stdout().print(cpus)


@app.command("show")
def show_chip(
    name: str = typer.Argument(..., help="A name of `chipmark chips list`."),
    format_: str = typer.Option("rich", "--format", help="rich or json."),
) -> None:
    """Show one entry with the source, date and confidence of each number.

    Example: chipmark chips show nvidia-h20
    """
    from rich.markup import escape
    from rich.table import Table

    from chipmark.chips.catalogue import Quantity, catalogue
    from chipmark.cli.console import check_format, emit_json, stdout

    check_format(format_, ("rich", "json"))
    entry = catalogue().entry(name)
    if format_ == "json":
        emit_json(dataclasses.asdict(entry))
        return
    table = Table("field", "value", "confidence", "date", "source", title=escape(entry.title))
    for field in dataclasses.fields(entry):
        value: Any = getattr(entry, field.name)
        if isinstance(value, Quantity):
            table.add_row(
                field.name, str(value), value.confidence, value.date, escape(value.source)
            )
        elif field.name != "title":
            table.add_row(field.name, escape(str(value)))
    stdout().print(table)
