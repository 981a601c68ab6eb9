"""Whether readings are what their meters say, and whether two meters of one thing agree."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chipmark.codes import FindingCode
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.metrics.energy import window_energy
from chipmark.metrics.energy_idle import idle_power
from chipmark.metrics.one_repeat import one_repeat
from chipmark.metrics.rawcell import RawCell, RepeatData
from chipmark.results.finding import Finding

_MEASURED = ("counter", "polled", "wall")
_ROUNDING = 1e-9
"""Relative: sums may be taken in another order."""


@dataclass(frozen=True, slots=True)
class _Joules:
    """What one meter read in a window, with its stated bound, both in joules."""

    meter: MeterInfo
    joules: float
    bound: float


def meter_findings(folder: Path, raw: RawCell) -> list[Finding]:
    """Findings on the readings of a record's meters.

    An error: readings of another kind than the meter's source (a counter without joules, polled
    watts without watts), and two meters that say they cover the same and differ by more than their
    two stated bounds. A warning where two of one scope differ so and what they cover has other
    words: one may be a part of the other.
    """
    findings = []
    for index, repeat in enumerate(raw.repeats):
        where = folder / f"repeat-{index}"
        for meter, samples in _readings(raw, repeat):
            if text := _wrong_kind(meter, samples):
                findings.append(Finding("error", FindingCode.METERS, where, text))
        for severe, text in _contradictions(raw, repeat):
            found = Finding("error" if severe else "warning", FindingCode.METERS, where, text)
            findings.append(found)
    return findings


def _readings(raw: RawCell, repeat: RepeatData) -> Iterator[tuple[MeterInfo, PowerSamples]]:
    """Every meter that left readings in a repeat, the row's first."""
    if raw.facts.meter is not None and repeat.power is not None:
        yield raw.facts.meter, repeat.power
    for meter in raw.facts.beside:
        if (samples := repeat.beside.get(meter.name)) is not None:
            yield meter, samples


def _wrong_kind(meter: MeterInfo, samples: PowerSamples) -> str:
    if not len(samples.time_s):
        return ""
    column = {"counter": "energy_j", "polled": "power_w"}.get(meter.source)
    if column is None or np.isfinite(getattr(samples, column)).any():
        return ""
    return f"{meter.name} is a meter of class {meter.source}, and its readings have no {column}"


def _contradictions(raw: RawCell, repeat: RepeatData) -> Iterator[tuple[bool, str]]:
    """Pairs of meters that cannot both be right, and whether they cover the same by their own
    words."""
    if not raw.facts.beside:
        return
    window = one_repeat(raw, repeat).window
    read = []
    for meter, samples in _readings(raw, repeat):
        idle = (raw.idle_before, raw.idle_after)
        if meter is not raw.facts.meter:
            idle = raw.idle_beside.get(meter.name, (None, None))
        least_w = idle_power(*idle, meter).low_w or 0.0
        energy = window_energy(samples, meter, *window, least_w)
        known = energy.energy_j is not None and energy.error_rel is not None
        if known and meter.source in _MEASURED:
            joules = energy.energy_j or 0.0
            read.append(_Joules(meter, joules, joules * (energy.error_rel or 0.0)))
    for a, b in itertools.combinations(read, 2):
        allowed = a.bound + b.bound + _ROUNDING * (a.joules + b.joules)
        if a.meter.scope == b.meter.scope and abs(a.joules - b.joules) > allowed:
            text = f"{a.meter.name} read {a.joules:.6g} J and {b.meter.name} {b.joules:.6g} J of"
            text += f" the same scope ({a.meter.scope}); their stated bounds allow {allowed:.3g} J"
            yield a.meter.covers == b.meter.covers, text
