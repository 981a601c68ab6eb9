"""`chipmark history`: stored runs over time, for drifts that no single change shows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from chipmark.history.observations import Observation


app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)


@app.command()
def history(
    runs: Path = typer.Argument(..., help="A folder of runs, or a Parquet store of them."),
    metric: list[str] = typer.Option(
        [], help="A column of the table, or time_s. May be given more than once."
    ),
    benchmark: str = typer.Option("*", help="Shell pattern of benchmark names."),
    last: int = typer.Option(0, min=0, help="Only so many of the newest runs; 0 is all."),
    store: Path | None = typer.Option(
        None, help="Add the folder's runs to this Parquet store, and look back on all of it."
    ),
    plot: Path | None = typer.Option(None, help="Draw the series here: .svg, .png or .pdf."),
    thresholds: Path | None = typer.Option(
        None, help="TOML; default: [tool.chipmark.gate] of ./pyproject.toml."
    ),
    format_: str = typer.Option("rich", "--format", help="rich, json or csv."),
) -> None:
    """Show where runs over time changed for good, and what drifts.

    A series is one machine, one work, one benchmark and one metric; machines are never mixed.
    Steps and slopes are shown with their size and interval; at most 1 % of those shown are chance,
    whatever the tails of the noise. What is worse now than it was at its best is compared with the
    margins of the gate. The more series there are, the more runs each needs before it is
    judged. Give each job a store of its own: of two writers at once the last wins.

    Exit codes: 0 nothing is worse; 1 the latest state is; 2 bad input; 3 too few runs to tell.

    Examples:

      chipmark history runs

      chipmark history nightly --store history.parquet --plot history.svg

      chipmark history history.parquet --benchmark '*decode*' --format json
    """
    from chipmark.errors import NothingToJudgeError
    from chipmark.gate.thresholds import load_thresholds
    from chipmark.history.changes import scan_history
    from chipmark.history.observations import series_of
    from chipmark.history.plot import check_plot
    from chipmark.history.plot import plot as draw
    from chipmark.history.report import FORMATS, as_csv, as_json, print_history, regressed
    from chipmark.results.many_records import many_objects
    from chipmark.terminal.console import check_format, emit_json, reporting, stdout, warn

    check_format(format_, FORMATS)
    if plot is not None:
        check_plot(plot)
    rules = load_thresholds(thresholds, Path.cwd())
    with many_objects():
        observations, notes = _observations(runs, metric, store)
        series = series_of(observations, benchmark, last)
    for note in notes:
        warn(note)
    if not series:
        raise NothingToJudgeError(
            f"no run of {runs} has a value of {', '.join(metric) or 'the default metrics'} for "
            f"benchmarks like {benchmark!r}",
            "without --benchmark and --metric everything is shown",
        )
    with reporting() as reporter:
        reporter.stage(f"looking back on {len(series)} series")
        found = scan_history(series)
    worse = regressed(found, rules)
    if format_ == "json":
        emit_json(as_json(found, worse, notes))
    elif format_ == "csv":
        sys.stdout.write(as_csv(series))
    else:
        print_history(found, worse, stdout())
    if plot is not None:
        warn(f"{draw(found, plot)} series drawn in {plot}")
    if worse:
        raise typer.Exit(1)
    if not found.judged:
        raise NothingToJudgeError(
            f"no series has {found.least_runs} runs yet",
            f"a step in one of {len(series)} series cannot be distinguished from chance with fewer",
        )


def _observations(
    runs: Path, metrics: list[str], store: Path | None
) -> tuple[list[Observation], tuple[str, ...]]:
    from chipmark.errors import UnknownNameError, UsageError
    from chipmark.history.observations import collect
    from chipmark.history.parquet_store import append, read_store
    from chipmark.terminal.console import warn

    if runs.is_file():
        if store is not None:
            raise UsageError(f"--store adds a folder's runs, and {runs} is a file")
        held = read_store(runs)
        known = {o.metric for o in held}
        for name in metrics:
            if name not in known:
                raise UnknownNameError("metric", name, known, f"{runs} has no other")
        return [o for o in held if not metrics or o.metric in metrics], ()
    collected = collect(runs, metrics)
    if store is None:
        return list(collected.observations), collected.notes
    added = append(store, collected.observations)
    warn(f"{store}: {added} new of {len(collected.observations)} values")
    return _observations(store, metrics, None)[0], collected.notes
