"""Findings as a table on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chipmark.gate.findings import Findings
from chipmark.gate.outputs.numbers import amount, change
from chipmark.gate.verdict import Verdict
from chipmark.table.cells import plain_text

_COLOURS = {
    Verdict.REGRESSED: "bold red",
    Verdict.MISSING: "bold red",
    Verdict.IMPROVED: "green",
    Verdict.EQUIVALENT: "green",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.UNFIT: "bold yellow",
}


def print_findings(findings: Findings, console: Console) -> None:
    """The rows, then each one's reasons, the notes and the headline."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for name in ("#", "benchmark", "metric"):
        table.add_column(name, overflow="fold")
    for name in ("base", "new", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for number, row in enumerate(findings.rows, 1):
        colour = _COLOURS[row.verdict]
        word = row.verdict.value + (" (not gated)" if row.not_gated else "")
        table.add_row(
            str(number), _plain(row.benchmark), _plain(row.metric),
            _plain(amount(row.base, row.unit)), _plain(amount(row.new, row.unit)),
            change(row), f"[{colour}]{word}[/]",
        )  # fmt: skip
    console.print(table)
    console.print("\nbelow, a change above 0 is for the worse, whatever the metric's direction:")
    for number, row in enumerate(findings.rows, 1):
        console.print(_plain(f"{number}: {row.sentence(findings.notes)}"), soft_wrap=True)
    for note in findings.notes:
        console.print(_plain(note), soft_wrap=True)
    console.print(f"[bold]{escape(findings.headline())}[/]")


def _plain(text: str) -> str:
    """Text of a file: neither rich's markup nor a terminal's control characters are obeyed."""
    return escape(plain_text(text))
