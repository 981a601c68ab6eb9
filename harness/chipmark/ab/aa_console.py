"""A/A reports as tables on a terminal."""

from __future__ import annotations

import math

from rich.console import Console

from chipmark.ab.aa_run import MachineReport
from chipmark.ab.between_sessions import AcrossReport
from chipmark.ab.looks import title
from chipmark.foreign_text import console_text
from chipmark.gate.aa_statistics import PROMISED_BENCHMARK, PROMISED_SUITE, Rate
from chipmark.gate.machine_bounds import ACROSS_SESSIONS
from chipmark.gate.outputs.numbers import amount, signed
from chipmark.table.listing import name, number, show


def print_machine(report: MachineReport, console: Console) -> None:
    """A row a benchmark, then false reds, margin, and what was not concluded."""
    heads = ("median", "noise of a pair", "A/A effect", "drift", "A/A bound", "slowdown found")
    rows = [
        [
            title(m.key), amount(m.median, m.unit), percent(m.noise.noise),
            signed(m.noise.effect.effect), signed(m.noise.drift.effect),
            percent(m.within), _found(m.detectable, measured=m.within is not None),
        ]
        for m in report.metrics
    ]  # fmt: skip
    show(console, [name("benchmark"), *map(number, heads)], rows)
    if report.reds is not None:
        promises = ((report.reds.benchmark, "benchmarks", PROMISED_BENCHMARK),
                    (report.reds.suite, "suites of 20", PROMISED_SUITE))  # fmt: skip
        for rate, of, promise in promises:
            console.print(f"false reds: {_rate(rate, of)}; promised: {100 * promise:g} %")
        _line(
            console,
            f"drawn from {report.rounds} pairs by sign flips: the bounds are about the draws, and "
            "the draws know nothing that these pairs did not show",
        )
        _line(console, "slowdown found: confirmed in 95 % of runs of at most 16 rounds")
    for fault in report.faults:
        console.print(f"[bold yellow]unfit:[/] {console_text(fault)}", soft_wrap=True)
    for note in report.notes:
        _line(console, note)
    if report.stored is not None:
        bound = percent(report.within)
        _line(console, f"the machine's A/A bound, {bound}, is stored for ab and gate: "
                       f"{report.stored}")  # fmt: skip


def print_across(report: AcrossReport, console: Console) -> None:
    """A row a benchmark, then the margin."""
    columns = [name("benchmark"), *map(number, ("sd of a session", "widest", "margin"))]
    rows = [
        [title(m.key), percent(m.sd), percent(m.widest), percent(m.margin)]
        for m in report.movements
    ]
    show(console, columns, rows)
    if report.across is not None:
        _line(
            console,
            f"margin between sessions of this machine: {percent(report.across)} "
            f"(the default is {percent(ACROSS_SESSIONS)}), by {len(report.sessions)} sessions",
        )
    for note in report.notes:
        _line(console, note)
    if report.stored is not None:
        _line(console, f"stored for gate: {report.stored}")


def percent(ln: float | None) -> str:
    """A log ratio as `5.1 %`; `-` for None."""
    return "-" if ln is None else f"{100 * math.expm1(ln):.1f} %"


def _found(ln: float | None, *, measured: bool) -> str:
    if ln is None:
        return "over 100 %" if measured else "-"
    return f"+{percent(ln)}"


def _rate(rate: Rate, of: str) -> str:
    return f"{rate.found} of {rate.trials:,} {of}, at most {100 * rate.bound:.2g} % (95 %)"


def _line(console: Console, text: str) -> None:
    console.print(console_text(text), soft_wrap=True)
