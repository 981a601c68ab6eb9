"""`chipmark power attach`: a power log that exists only after the run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from chipmark.errors import ChipmarkError
    from chipmark.meters.clock_alignment import Lag
    from chipmark.results.attach import Attachment
    from chipmark.results.record import Record


def attach_log(
    runs: list[Path] = typer.Argument(..., help="Records, or folders that hold records."),
    out: Path = typer.Option(..., "-o", "--out", help="Folder for the new records."),
    csv: Path | None = typer.Option(None, "--csv", metavar="FILE", help="The log, a CSV."),
    npz: Path | None = typer.Option(
        None, "--log", metavar="FILE", help="The log, an .npz of time_s (Unix), energy_j, power_w."
    ),
    time: str = typer.Option(
        "", "--time", metavar="COLUMN", help="Its times; two columns as Date+Time."
    ),
    watts: str = typer.Option("", "--power", metavar="COLUMN", help="Its watts."),
    energy: str = typer.Option("", "--energy", metavar="COLUMN", help="Its cumulative energy."),
    unit: str = typer.Option("", "--unit", help="W, mW or kW; W where its name says nothing."),
    energy_unit: str = typer.Option("", "--energy-unit", help="J, kJ, Wh or kWh."),
    zone: str = typer.Option(
        "", "--zone", metavar="+HH:MM", help="Zone of times without one, or its name; UTC."
    ),
    time_format: str = typer.Option(
        "", "--time-format", metavar="FORMAT", help="iso, epoch_s, epoch_ms or as %d.%m.%Y %H:%M."
    ),
    decimal: str = typer.Option("", "--decimal", help="The decimal sign, where it is not clear."),
    encoding: str = typer.Option("", "--encoding", help="utf-8, gb18030 or latin-1."),
    offset: str = typer.Option(
        "0",
        "--offset",
        metavar="SECONDS",
        help="Added to its times; START..END of one that drifts.",
    ),
    clock: str = typer.Option(
        "",
        "--clock",
        metavar="SECONDS",
        help="What its clock may differ by, where the work does not show it; else no error bound.",
    ),
    scope: str = typer.Option("wall", "--scope", help="What it meters: wall, node_dc or board."),
    error: str = typer.Option("", "--error", help="The meter's error as a share of 1; 0.01."),
    averaging: str = typer.Option(
        "", "--averaging", metavar="SECONDS", help="What a row is a mean over; row: since the last."
    ),
    cap: str = typer.Option("", "--cap", metavar="WATTS", help="The most that can be drawn there."),
    covers: str = typer.Option("", "--covers", help="What is connected to the meter, for people."),
    name: str = typer.Option("", "--name", help="The meter's name in the rows; csv or log."),
    beside: bool = typer.Option(
        False, help="Keep the row's meter; the log's readings are shown with it."
    ),
    format_: str = typer.Option("rich", "--format", help="rich or json."),
) -> None:
    """Attach the log of a wall meter to records that were measured while it ran.

    Each result is a record of its own in the folder of -o; old records stay as they are. The log
    becomes the row's meter (what measured before is shown with it), or stays next to it. It is
    laid over the run by Unix time. Where the run's work has contrast, its watts must follow the
    work within one period of the log, at the start and at the end: a clock that is off or drifts,
    another zone, or a log of another time is refused with the offset that was found.

    Exit code 2 where the log does not fit a record, or cannot be read; 3 where there is no record.

    Examples:

      chipmark power attach runs/a --csv wall.csv --time Time --power Watts -o b

      chipmark power attach a --csv w.csv --time T --power P --averaging row -o b

      chipmark power attach a --csv w.csv --time Date+Time --power "P (kW)" -o b
    """
    from chipmark.cli.records import folders_of
    from chipmark.errors import ChipmarkError, UsageError
    from chipmark.results.attach import attach
    from chipmark.results.store import load_record
    from chipmark.terminal.console import check_format, emit_json, reporting, warn
    from chipmark_models.plain_text import one_line

    check_format(format_, ("rich", "json"))
    folders = folders_of(runs)
    if any(folder.resolve().parent == out.resolve() for folder in folders):
        raise UsageError(
            f"-o {out} holds the records themselves, and each would be in its tables twice",
            f"give another folder: -o {out}-wall",
        )
    if name and not _NAME.fullmatch(name):
        raise UsageError(
            f"--name {one_line(name, 60)} is not a name", "letters, digits, . _ and -, at most 40"
        )
    options = {
        "time": time, "power": watts, "energy": energy, "unit": unit, "energy_unit": energy_unit,
        "zone": zone, "format": time_format, "decimal": decimal, "encoding": encoding,
        "offset": offset, "scope": scope, "error": error, "covers": covers,
        "averaging": averaging, "cap": cap, "clock": clock,
    }  # fmt: skip
    done: list[tuple[Record, Record, tuple[Lag, ...]]] = []
    refused: list[tuple[Path, ChipmarkError]] = []
    with reporting() as reporter:
        reporter.stage("reading the log")
        try:
            given = _attachment(csv, npz, {k: v for k, v in options.items() if v}, name)
        except ChipmarkError as why:
            raise _in_flags(why) from why
        reporter.stage("attaching it")
        reporter.steps(len(folders))
        for folder in folders:
            try:
                old = load_record(folder)
                result = attach(old, out, given, as_row=not beside)
                done.append((old, load_record(result.folder), result.lags))
            except ChipmarkError as why:
                refused.append((folder, why))
            reporter.step()
    if format_ == "json":
        emit_json(
            {
                "records": [_document(*found) for found in done],
                "refused": [
                    {"path": str(path), "reason": fault.message} for path, fault in refused
                ],
            }
        )
    else:
        _print(done)
    if len(refused) > 1:
        for path, reason in refused:
            warn(f"left out {path}: {reason.message}")
        raise UsageError(
            f"the log does not fit {len(refused)} of {len(folders)} records", refused[0][1].hint
        )
    if refused:
        raise refused[0][1]


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


def _attachment(
    csv: Path | None, npz: Path | None, options: dict[str, str], name: str
) -> Attachment:
    """The log of the options as it was read, with how its clock is to be corrected."""
    from chipmark.errors import UsageError
    from chipmark.meters.clock_alignment import Flags
    from chipmark.meters.csv_form import csv_form, offset_of
    from chipmark.meters.csv_log import CsvLog
    from chipmark.meters.log_meter import StoredLog, log_info, log_terms, zone_ahead_s
    from chipmark.results.attach import Attachment
    from chipmark_models.files import sha256_of_file

    style, terms = "--{} {}", log_terms(options)
    if (csv is None) == (npz is None):
        raise UsageError(
            "one log is attached at a time",
            "--csv FILE --time COLUMN --power COLUMN, or --log FILE",
        )
    if csv is not None:
        form = csv_form(options)
        source = CsvLog(csv, form)
        log = terms.rows_of(source.read())
        zone_s = zone_ahead_s(form.times.zone, log)
        flags = Flags(source.naive(), zone_s, form.offset_s, style)
        info = log_info(name or "csv", csv, log, terms, "rows of")
        return Attachment(csv, sha256_of_file(csv), log, info, flags, terms.clock_s)
    assert npz is not None
    log = terms.rows_of(StoredLog(npz).read())
    flags = Flags(False, 0.0, offset_of(options.get("offset", "0")), style)
    info = log_info(name or "log", npz, log, terms, "samples of")
    return Attachment(npz, sha256_of_file(npz), log, info, flags, terms.clock_s)


_OPTION = re.compile(
    r"\b(time|power|energy|unit|energy_unit|zone|format|decimal|encoding|offset|error|averaging|cap|clock)="
)


def _in_flags(error: ChipmarkError) -> ChipmarkError:
    """The same error, with the options of `--meter csv:` as those of this command."""

    def flag(match: re.Match[str]) -> str:
        return f"--{'time-format' if match[1] == 'format' else match[1].replace('_', '-')} "

    error.message, error.hint = (_OPTION.sub(flag, text) for text in (error.message, error.hint))
    return error


def _document(old: Record, new: Record, lags: tuple[Lag, ...]) -> dict[str, Any]:
    return {
        "id": new.id,
        "path": str(new.path),
        "from": {"id": old.id, "path": str(old.path)},
        "lag_s": [lag.seconds for lag in lags],
        "power_w": new.metrics.values.get("power_w"),
        "tok_per_joule": new.metrics.values.get("tok_per_joule"),
        "null_reason": new.metrics.null_reasons.get("tok_per_joule"),
    }


def _print(done: list[tuple[Record, Record, tuple[Lag, ...]]]) -> None:
    from chipmark.foreign_text import console_text
    from chipmark.table.cells import number_text
    from chipmark.terminal.console import stdout

    console = stdout()
    for old, new, lags in done:
        console.print(console_text(f"{old.id} -> {new.id}"), soft_wrap=True)
        texts = [
            f"{name} {number_text(value)}" if value is not None else f"{name} - ({reason})"
            for name in ("power_w", "tok_per_joule")
            for value, reason in [
                (new.metrics.values.get(name), new.metrics.null_reasons.get(name, "unknown"))
            ]
        ]
        found = [f"{lag.seconds:+.2g} s" for lag in lags if lag.seconds is not None]
        texts.append(f"lag {', '.join(found)}" if found else f"lag unknown: {lags[0].why}")
        console.print(console_text(f"  {'; '.join(texts)}"), soft_wrap=True)
