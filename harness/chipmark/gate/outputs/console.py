"""Findings as a table on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from chipmark.foreign_text import console_text
from chipmark.gate.findings import GateFindings
from chipmark.gate.outputs.numbers import amount, change
from chipmark.gate.verdict import Verdict
from chipmark.table.listing import name, number, show

_COLOURS = {
    Verdict.REGRESSED: "bold red",
    Verdict.MISSING: "bold red",
    Verdict.IMPROVED: "green",
    Verdict.EQUIVALENT: "green",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.UNFIT: "bold yellow",
}


def print_findings(findings: GateFindings, console: Console) -> None:
    """The rows, then each one's reasons, the notes and the headline."""
    columns = [number("#"), name("benchmark"), name("metric")]
    columns += [*map(number, ("base", "new", "change")), name("verdict")]
    rows = [
        [
            str(at), row.benchmark, row.metric, amount(row.base, row.unit),
            amount(row.new, row.unit), change(row),
            row.verdict.value + (" (not gated)" if row.not_gated else ""),
        ]
        for at, row in enumerate(findings.rows, 1)
    ]  # fmt: skip
    # The last word of a line, so that a benchmark named like a verdict stays plain.
    styles = {rf"(?m)\b{v.value}(?= \(not gated\)$|$)": _COLOURS[v] for v in _COLOURS}
    show(console, columns, rows, lead=2, styles=styles)
    console.print("\nbelow, a change above 0 is for the worse, whatever the metric's direction:")
    for at, row in enumerate(findings.rows, 1):
        console.print(console_text(f"{at}: {row.sentence(findings.notes)}"), soft_wrap=True)
    for note in findings.notes:
        console.print(console_text(note), soft_wrap=True)
    console.print(f"[bold]{escape(findings.headline())}[/]")
