"""`chipmark power`: what meters are, what they say, and the logs and pictures of their watts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from chipmark.cli.power_attach import attach_log
from chipmark.cli.power_plot import plot

if TYPE_CHECKING:
    from rich.text import Text

    from chipmark.cell.meters_here import MeterHere
    from chipmark.cell.reporter import Reporter
    from chipmark.meters.calibrate import Found, Plan
    from chipmark.meters.calibration import Calibration, Figure
    from chipmark.meters.choice import MeterChoice
    from chipmark.meters.watch import MeterReading

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    help="Meters of power: what their sensors are, and what they say now.",
)

app.command("attach")(attach_log)
app.command("plot")(plot)

_METER = typer.Option(
    [],
    "--meter",
    metavar="METER",
    help="This meter only, as NAME, NAME:TARGET or NAME:TARGET,KEY=VALUE; may be given more than "
    "once. sim:SENSOR is a simulated one: averaged, "
    "constant, counter, pulsed or tool.",
)
_BACKEND = typer.Option(
    "", "--backend", "-b", metavar="KIND:DEVICE", help="The chip whose meters are asked."
)
_FORMAT = typer.Option("rich", "--format", help="rich or json.")


@app.command("calibrate")
def calibrate_meters(
    meter: list[str] = _METER,
    backend: str = _BACKEND,
    idle_s: float = typer.Option(30.0, "--idle-s", min=30.0, help="Seconds of idle."),
    no_load: bool = typer.Option(
        False, "--no-load", help="Leave the load out: what idle alone shows."
    ),
    virtual: bool = typer.Option(
        False, "--virtual-clock", help="Simulated meters on a clock of their own, at once."
    ),
    forget: bool = typer.Option(
        False, "--forget", help="Remove what is stored, of the meters named or of all."
    ),
    format_: str = _FORMAT,
) -> None:
    """Find out how often each meter's sensor changes, over which window it averages, its
    resolution and its idle watts, and keep that for the runs of this machine.

    It takes 3 minutes: idle, then steps of load on the device, whose rise the sensor shows. Leave
    the machine alone meanwhile. What cannot be seen is null, with the reason. Runs use it for 30
    days, or until the driver changes, and say so in their rows.

    Examples:

      chipmark power calibrate

      chipmark power calibrate -b torch:cuda:0

      chipmark power calibrate --meter rapl --no-load --format json

      chipmark power calibrate --meter sim:averaged --virtual-clock

      chipmark power calibrate --forget
    """
    from chipmark.meters.calibrate import Plan
    from chipmark.meters.calibration import calibration_path, store_calibrations
    from chipmark.terminal.console import check_format, emit_json, reporting, stdout, warn

    check_format(format_, ("rich", "json"))
    choices = _choices(meter)
    if forget:
        _forget([name for one in choices for name in {one.name, one.kept}], format_)
        return
    with reporting() as reporter:
        reporter.stage("looking for meters")
        here = _meters(choices, backend, virtual)
        found = _calibrated(here, Plan(idle_s=idle_s), no_load, reporter)
    store_calibrations(found)
    if format_ == "json":
        emit_json([calibration.model_dump() for calibration in found])
        return
    _show(found)
    warn(f"kept in {calibration_path()}")
    if any(calibration.update_period_s.value is None for calibration in found):
        stdout().print("what is null stays as each meter takes it")


@app.command("watch")
def watch_meters(
    meter: list[str] = _METER,
    backend: str = _BACKEND,
    once: bool = typer.Option(False, "--once", help="Print one reading and end."),
    interval: float = typer.Option(
        1.0, "--interval", min=0.05, help="Seconds from one reading to the next."
    ),
    seconds: float | None = typer.Option(
        None, "--seconds", min=0.05, help="End after so long; Ctrl-C ends it at any time."
    ),
    format_: str = _FORMAT,
) -> None:
    """Show what every meter says now: watts, joules of counters, limits, the age of the reading.

    On a terminal the table is renewed in place; else a table is printed for each reading, and with
    --format json a list of readings, one a look.

    Examples:

      chipmark power watch

      chipmark power watch --once --format json

      chipmark power watch --meter rapl --interval 0.5 --seconds 10

      chipmark power watch --meter sim:pulsed --once
    """
    from chipmark.terminal.console import check_format

    check_format(format_, ("rich", "json"))
    _watch(_meters(_choices(meter), backend, False), once, interval, seconds, format_)


def _choices(texts: list[str]) -> list[MeterChoice]:
    from chipmark.meters.choice import parse_choice

    return [parse_choice(text) for text in texts]


def _meters(choices: list[MeterChoice], backend: str, virtual: bool) -> list[MeterHere]:
    from chipmark.cell.meters_here import meters_here, on_virtual_clock
    from chipmark.errors import UsageError

    here = meters_here(choices, backend)
    if virtual and any(one.simulated is None for one in here):
        raise UsageError("--virtual-clock is for simulated meters", "name one: --meter sim:pulsed")
    return on_virtual_clock(here) if virtual else here


def _forget(names: list[str], format_: str) -> None:
    from chipmark.meters.calibration import forget_calibrations
    from chipmark.terminal.console import emit_json, stdout

    number = forget_calibrations(names)
    if format_ == "json":
        emit_json({"forgotten": number})
    else:
        stdout().print(f"{number} calibrations forgotten")


def _calibrated(
    here: list[MeterHere], plan: Plan, no_load: bool, reporter: Reporter
) -> list[Calibration]:
    """Those that one load moves are read together, under that load."""
    import time

    from chipmark.meters.calibration import driver_of

    groups: dict[object, list[MeterHere]] = {}
    for one in here:
        groups.setdefault(one.simulated or one.backend, []).append(one)
    calibrations = []
    for group in groups.values():
        for one, found in zip(group, _found(group, plan, no_load, reporter), strict=True):
            driver = "simulated" if one.simulated else driver_of(one.vendor)
            calibrations.append(found.calibration(one.meter, driver, time.time()))
    return calibrations


def _found(group: list[MeterHere], plan: Plan, no_load: bool, reporter: Reporter) -> list[Found]:
    from chipmark.cell.power_load import power_load
    from chipmark.engine.clock import MonotonicClock
    from chipmark.meters.calibrate import calibrate

    meters = [one.meter for one in group]
    names = ", ".join(meter.info.name for meter in meters)

    def tell(text: str) -> None:
        reporter.stage(f"{names}: {text}")

    sensor, backend = group[0].simulated, group[0].backend
    if sensor is not None:
        return calibrate(meters, None if no_load else sensor.load, sensor.clock, tell, plan)
    clock = MonotonicClock()
    if no_load:
        return calibrate(meters, None, clock, tell, plan)
    if backend is None:
        why = "no backend that is installed computes on it: name one with -b"
        return calibrate(meters, None, clock, tell, plan, why)
    with power_load(backend, reporter) as load:
        return calibrate(meters, load, clock, tell, plan)


def _show(found: list[Calibration]) -> None:
    from chipmark.table.listing import name, number, show, words
    from chipmark.terminal.console import stdout

    quantities = ("idle_w", "load_w", "update_period_s", "averaging_s", "lag_s", "resolution_w")
    heads = ("idle\nW", "load\nW", "period\ns", "averaging\ns", "lag\ns", "resolution\nW")
    rows = []
    for one in found:
        figures = [_figure(getattr(one, quantity)) for quantity in quantities]
        rows.append([one.meter, one.scope, *figures, one.covers])
    columns = [name("meter"), name("scope"), *map(number, heads), words("covers")]
    console = stdout()
    show(console, columns, rows)
    for one in found:
        for quantity in quantities:
            figure = getattr(one, quantity)
            if figure.value is None:
                console.print(f"{one.meter} {quantity}: null, {figure.reason}", markup=False)


def _figure(figure: Figure) -> str:
    if figure.value is None:
        return "null"
    scatter = "" if figure.scatter is None else f" ± {figure.scatter:.1g}"
    return f"{figure.value:.4g}{scatter}"


def _watch(
    here: list[MeterHere], once: bool, interval: float, seconds: float | None, format_: str
) -> None:
    from rich.console import Console

    from chipmark.engine.clock import MonotonicClock
    from chipmark.meters.watch import Watch, least_look_s
    from chipmark.terminal.console import emit_json_list, stdout

    meters = [one.meter for one in here]
    watch = Watch(meters, MonotonicClock(), [one.temperature for one in here])
    least = max(interval, least_look_s(meters))
    if once:
        seconds = least / 2
    if format_ == "json":
        looks = watch.looks(least, seconds)
        if once:
            emit_json_list(_json(reading) for look in looks for reading in look)
        else:
            emit_json_list([_json(reading) for reading in look] for look in looks)
        return
    console: Console = stdout()
    if once or not console.is_terminal:
        for look in watch.looks(least, seconds):
            console.print(_table(look, console.width), soft_wrap=True)
        return
    from rich.live import Live

    with Live(console=console, auto_refresh=False) as live:
        for look in watch.looks(least, seconds):
            live.update(_table(look, console.width), refresh=True)


def _json(reading: MeterReading) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(reading)


def _table(look: list[MeterReading], width: int) -> Text:
    """A line a meter; quantities that no meter gives are left out."""
    from rich.text import Text

    from chipmark.foreign_text import plain_text
    from chipmark.table.layout import listing
    from chipmark.table.listing import name, number, words

    columns = [name("meter"), name("scope")]
    columns += map(number, ("watts", "joules", "cap\nW", "temperature\n°C", "age\ns"))
    columns += [words("covers"), words("remarks")]
    rows = []
    for reading in look:
        remarks = ["" if reading.verified else "unverified on hardware", reading.problem]
        cells = [
            reading.meter,
            reading.scope,
            _number(reading.power_w, ".1f"),
            _number(reading.energy_j, ".3f"),
            _number(reading.cap_w, ".0f"),
            _number(reading.temperature_c, ".0f"),
            _number(reading.age_s, ".2f"),
            reading.covers,
            "; ".join(filter(None, remarks)),
        ]
        rows.append([plain_text(cell) for cell in cells])
    shown = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    lines = listing([columns[i] for i in shown], [[row[i] for i in shown] for row in rows], width)
    return Text("\n".join(lines))


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)
