"""`chipmark aa`: the machine against itself, and what a gate can promise on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from chipmark.ab.between_sessions import AcrossReport

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)


@app.command(context_settings={"allow_interspersed_args": False})
def aa(
    command: list[str] = typer.Argument(
        None, help="After --: what both arms run; default: a decode step. With --across: runs."
    ),
    rounds: int = typer.Option(
        40, min=6, max=400, help="Pairs of processes; fewer give neither a rate nor a margin."
    ),
    across: bool = typer.Option(
        False, "--across", help="Measure nothing: compare runs of several sessions."
    ),
    metric: list[str] = typer.Option(
        [], help="Of `chipmark run`: a column of the table. May be given more than once."
    ),
    seed: int = typer.Option(0, min=0, help="Seed of the order of the arms and of the draws."),
    thresholds: Path | None = typer.Option(
        None, help="TOML; default: [tool.chipmark.gate] of pyproject.toml."
    ),
    canary_limit: float = typer.Option(
        0.10, min=0.001, max=1.0, help="Noise of the canary from slot to slot that is unfit."
    ),
    limit_s: float = typer.Option(900.0, min=1.0, help="Seconds after which a process is ended."),
    store: bool = typer.Option(True, help="Keep the bound for `ab` and `gate` on this machine."),
    out: Path | None = typer.Option(None, "-o", "--out", help="A new folder for every round."),
    format_: str = typer.Option("rich", "--format", help="rich or json."),
) -> None:
    """Measure the machine: one command in both arms, so that whatever differs is noise.

    Tells how often the gate would be falsely red here, the smallest slowdown that it finds, and
    stores the machine's A/A bound. With --across, folders of -o (or runs that `chipmark gate`
    reads), a session each and at least five, give the margin for stored baselines.

    Exit codes: 0 measured, and the promise is kept; 1 more false reds than promised; 2 bad input
    or a failed round; 3 too few pairs or sessions, or the machine is unfit; 130 interrupted.

    Examples:

      chipmark aa

      chipmark aa --rounds 80 -o runs/aa-monday -- pytest tests/bench -q -k decode

      chipmark aa --across runs/aa-monday runs/aa-tuesday runs/aa-wednesday runs/aa-4 runs/aa-5
    """
    from chipmark.terminal.console import check_format, emit_json, reporting, stdout

    check_format(format_, ("rich", "json"))
    words = tuple(command or ())
    if across:
        report = _across(words, tuple(metric), out, store=store)
        if format_ == "json":
            emit_json(report.to_dict())
        else:
            from chipmark.ab.aa_console import print_across

            print_across(report, stdout())
        if report.exit_code:
            raise typer.Exit(report.exit_code)
        return
    from chipmark.ab.aa_console import print_machine
    from chipmark.ab.aa_run import WORKLOAD, measure
    from chipmark.ab.compare import Options
    from chipmark.ab.resolve_arms import Request

    options = Options(
        metrics=tuple(metric), seed=seed, canary_limit=canary_limit, limit_s=limit_s,
        thresholds=thresholds,
    )  # fmt: skip
    request = Request(command=words or WORKLOAD, same=True)
    with reporting() as reporter:
        measured = measure(request, rounds, options, out, reporter, store=store)
    if format_ == "json":
        emit_json(measured.to_dict())
    else:
        print_machine(measured, stdout())
    if measured.exit_code:
        raise typer.Exit(measured.exit_code)


def _across(
    words: tuple[str, ...], metrics: tuple[str, ...], out: Path | None, *, store: bool
) -> AcrossReport:
    from chipmark.ab.between_sessions import compare_sessions
    from chipmark.errors import UsageError

    if out is not None:
        raise UsageError("--across measures nothing to keep under -o", "leave -o out")
    for word in words:
        if word.startswith("-"):
            raise UsageError(f"{word} after the runs", "give options before the first run")
    return compare_sessions([Path(word) for word in words], metrics, store=store)
