"""Watts of every meter over the time of a repeat, with its phases: what a picture is drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from chipmark.engine.contract import PHASES
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.metrics.energy import GAP_PERIODS
from chipmark.metrics.events import Floats, RepeatView


@dataclass(frozen=True, slots=True)
class PowerSeries:
    """Watts of one meter. Between two neighbours they are a straight line; NaN is a gap, in which
    nothing was read."""

    meter: str
    time_s: Floats
    """From the start of W; below 0 before it."""
    power_w: Floats


@dataclass(frozen=True, slots=True)
class PhaseMark:
    """Launches of one phase that follow each other, in seconds from the start of W."""

    start_s: float
    end_s: float
    phase: str


@dataclass(frozen=True, slots=True)
class PowerTimeline:
    """Power of one repeat."""

    repeat: int
    window_s: float
    """W, which begins at 0."""
    series: tuple[PowerSeries, ...]
    """The row's meter first."""
    phases: tuple[PhaseMark, ...]
    """In order; the time between them is idle or the host's."""
    idle_w: tuple[float, float] | None
    """Power at idle before and after by the row's meter (low, high); None where not measured."""


def power_series(
    name: str, samples: PowerSamples, meter: MeterInfo | None, start_s: float
) -> PowerSeries:
    """Readings as watts over time. meter: what is known of it, None where nothing is.

    A counter's watts are those of the time between two changes of its value, and it loses nothing
    in between; polled watts have a gap where readings are over three periods apart.
    """
    counted = np.isfinite(samples.energy_j)
    if int(counted.sum()) >= 2:
        time_s, energy = samples.time_s[counted], samples.energy_j[counted]
        # The reading at which each value was seen first.
        moved = np.concatenate(([True], np.diff(energy) != 0))
        time_s, energy = time_s[moved], energy[moved]
        spans = np.diff(time_s)
        real = spans > 0
        watts = np.diff(energy)[real] / spans[real]
        edges = np.stack((time_s[:-1][real], time_s[1:][real]), axis=1)
        return PowerSeries(name, edges.ravel() - start_s, np.repeat(watts, 2))
    good = np.isfinite(samples.power_w)
    time_s, power_w = samples.time_s[good], samples.power_w[good]
    spans = np.diff(time_s)
    asked = meter.reading_period_s if meter is not None else None
    reading = asked or (float(np.median(spans)) if len(spans) else 0.0)
    period = meter.update_period_s if meter is not None else 0.0
    after = np.flatnonzero(spans > GAP_PERIODS * max(reading, period)) + 1
    middle = (time_s[after] + time_s[after - 1]) / 2 if len(after) else np.zeros(0)
    return PowerSeries(
        name,
        np.insert(time_s, after, middle) - start_s,
        np.insert(power_w, after, np.full(len(after), np.nan)),
    )


def phase_marks(view: RepeatView, start_s: float) -> tuple[PhaseMark, ...]:
    """Launches of W as stretches of one phase, in seconds from `start_s`; a pause of over a
    hundredth of W ends one."""
    launches = view.tables["launches"]
    keep = view.launch_in
    order = np.argsort(launches["start_s"][keep], kind="stable")
    start, end = (launches[n][keep][order] - start_s for n in ("start_s", "end_s"))
    phase = launches["phase"][keep][order].astype(np.int64)
    if not len(start):
        return ()
    pause = start[1:] - np.maximum.accumulate(end)[:-1] > view.window_s / 100
    first = np.flatnonzero(np.concatenate(([True], (np.diff(phase) != 0) | pause)))
    last = np.append(first[1:], len(phase)) - 1
    return tuple(
        PhaseMark(float(start[a]), float(end[b]), PHASES[phase[a]])
        for a, b in zip(first.tolist(), last.tolist(), strict=True)
    )


def power_timeline(
    repeat: int,
    view: RepeatView,
    window: tuple[float, float],
    readings: Mapping[str, tuple[PowerSamples, MeterInfo | None]],
    idle_w: tuple[float, float] | None,
) -> PowerTimeline:
    """The timeline of a repeat. window: start and end of the unit's W. readings: of every meter by
    name, in the order of the series."""
    series = tuple(
        power_series(name, samples, meter, window[0]) for name, (samples, meter) in readings.items()
    )
    marks = phase_marks(view, window[0])
    return PowerTimeline(repeat, window[1] - window[0], series, marks, idle_w)
