"""`chipmark power plot`: the watts of stored records over time, as a picture."""

from __future__ import annotations

from pathlib import Path

import typer


def plot(
    runs: list[Path] = typer.Argument(..., help="Records, or folders of them."),
    out: Path = typer.Option(..., "-o", "--out", help="The picture: .svg, .png or .pdf."),
    repeat: int | None = typer.Option(
        None, "--repeat", min=0, help="Only this timed repeat of each record; the first is 0."
    ),
) -> None:
    """Draw the power of a run over time: every meter, phases shaded, idle power dashed.

    A panel is a repeat, from the first request sent to the last token. Where nothing was read there
    is no line. A counter's
    watts are those of the time between two of its updates. Needs the extra `plot` (matplotlib).

    Exit codes: 0 drawn; 2 bad input; 3 nothing was metered.

    Examples:

      chipmark power plot runs/quick -o power.svg

      chipmark power plot runs/quick/RECORD --repeat 0 -o power.png
    """
    from chipmark.errors import NothingToJudgeError, UsageError
    from chipmark.history.plot import check_plot
    from chipmark.history.power_plot import plot_power
    from chipmark.results.power_timeline import power_timelines
    from chipmark.results.store import find_records, load_record
    from chipmark.terminal.console import reporting, warn

    check_plot(out)
    lines = []
    with reporting() as reporter:
        for folder in find_records(runs):
            record = load_record(folder)
            reporter.stage(f"reading the power of {record.id}")
            lines += [(record.id, line) for line in power_timelines(record)]
        if repeat is not None and lines and all(line.repeat != repeat for _, line in lines):
            most = max(line.repeat for _, line in lines)
            raise UsageError(f"no record has a repeat {repeat}", f"they are 0 to {most}")
        drawn = [
            (f"{name}, repeat {line.repeat}", line)
            for name, line in lines
            if line.series and repeat in (None, line.repeat)
        ]
        if not drawn:
            raise NothingToJudgeError(
                "no repeat of these records was metered", "a record's notes say why"
            )
        shown = plot_power(drawn, out)
    rest = "" if shown == len(drawn) else f" of {len(drawn)}; name a record, or --repeat"
    warn(f"{shown} repeats drawn in {out}{rest}")
