"""`chipmark doctor`: what is here, what is missing and how to get it, and what the engine costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer

from chipmark.cli.own_files import CHIPS_FILE, PROVIDERS_FILE

if TYPE_CHECKING:
    from chipmark.engine.contract import Backend

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)


_STYLES = {r"(?m)^yes\b": "green", r"(?m)^no\b": "yellow"}


@app.command()
def doctor(
    overhead: bool = typer.Option(
        False, "--overhead", help="Measure the engine's own time per step, at 1, 8 and 64 sessions."
    ),
    providers: Path | None = PROVIDERS_FILE,
    chips: Path | None = CHIPS_FILE,
    format_: str = typer.Option("rich", "--format", help="rich or json."),
) -> None:
    """Show chips, meters, backends, providers and models: here or missing, and what to install.

    With --overhead, the last line is the median engine time of a step at 64 running sessions.

    Examples:

      chipmark doctor

      chipmark doctor --overhead

      chipmark doctor --format json
    """
    from chipmark.terminal.console import check_format
    from chipmark.user_files import using

    check_format(format_, ("rich", "json"))
    if overhead:
        _overhead(format_)
    else:
        with using(providers=providers, chips=chips):
            _inventory(format_)


def _inventory(format_: str) -> None:
    from chipmark.cell.inventory import as_json, inventory
    from chipmark.table.listing import name, show, words
    from chipmark.terminal.console import emit_json, reporting, stdout

    with reporting() as reporter:
        reporter.stage("looking at chips, meters, providers and models")
        items = inventory()
    if format_ == "json":
        emit_json(as_json(items))
        return
    console = stdout()
    for number, kind in enumerate(dict.fromkeys(item.kind for item in items)):
        if number:
            console.print()
        rows = [
            ["yes" if item.here else "no", item.name, item.text, item.remedy]
            for item in items
            if item.kind == kind
        ]
        columns = [name("here"), name(kind), words("what"), words("how to get it")]
        show(console, columns, rows, lead=2, styles=_STYLES)


def _null_system() -> Backend:
    from chipmark.backends.sim.backend import SimBackend

    return cast("Backend", SimBackend("null"))


def _overhead(format_: str) -> None:
    import dataclasses

    from chipmark.engine.overhead import measure_overhead
    from chipmark.terminal.console import emit_json, reporting, stdout

    with reporting() as reporter:
        reporter.stage("driving a null system")
        rows = measure_overhead(_null_system)
    if format_ == "json":
        emit_json([dataclasses.asdict(row) for row in rows])
        return
    console = stdout()
    for row in rows:
        median, p95 = row.engine_s_median * 1e6, row.engine_s_p95 * 1e6
        console.print(
            f"{row.sessions:4d} sessions: {median:.1f} us a step (p95 {p95:.1f}, {row.steps} steps)"
        )
    last = rows[-1]
    console.print(
        f"engine time per step at {last.sessions} sessions: {last.engine_s_median * 1e6:.1f} us"
    )
