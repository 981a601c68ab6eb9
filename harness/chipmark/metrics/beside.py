"""What the meters next to a row's own read: joules, watts and tokens a joule of each by itself.

The rules of refusal are those of the row's own meter (`metrics.energy`); no column but
`power_beside` is made from these numbers, and no comparison asks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chipmark.chips.contract import SHARE
from chipmark.codes import NullReason
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.metrics.energy import WindowEnergy, window_energy
from chipmark.metrics.energy_idle import idle_power
from chipmark.metrics.one_repeat import OneRepeat
from chipmark.metrics.rawcell import RawCell


def beside_details(raw: RawCell, done: Sequence[OneRepeat]) -> dict[str, Any]:
    """What `details["energy"]` holds of readings as JSON: `beside`, an entry for each meter next to
    the row's (absent where there is none), and `reading_period_s`, the seconds between readings
    that the row's own meter reached (absent where it left none)."""
    found: dict[str, Any] = {}
    own = _reached([(repeat.power, repeat.window) for repeat in done])
    if own is not None:
        found["reading_period_s"] = own
    if raw.facts.beside:
        found["beside"] = [_entry(raw, meter, done) for meter in raw.facts.beside]
    return found


def _entry(raw: RawCell, meter: MeterInfo, done: Sequence[OneRepeat]) -> dict[str, Any]:
    """One meter over the complete repeats that it covers; where it covers none, nulls and why.

    A null of `tok_per_joule` alone is of a unit that is a part of what meters can tell apart.
    """
    read = [(repeat, repeat.beside.get(meter.name)) for repeat in done]
    least_w = idle_power(*raw.idle_beside.get(meter.name, (None, None)), meter).low_w or 0.0
    each = [(r, window_energy(samples, meter, *r.window, least_w)) for r, samples in read]
    known = [(repeat, energy) for repeat, energy in each if energy.energy_j is not None]
    joules = sum(energy.energy_j or 0.0 for _, energy in known)
    seconds = sum(repeat.window_s for repeat, _ in known)
    tokens = sum(repeat.metered.tokens for repeat, _ in known)
    reason = None if known else _reason(each)
    part = raw.facts.used < raw.facts.of or raw.facts.unit == SHARE
    if known and part:
        reason = NullReason.UNIT_PARTLY_USED
    return {
        "name": meter.name,
        "source": meter.source,
        "scope": meter.scope,
        "covers": meter.covers,
        "power_w": joules / seconds if known else None,
        "energy_j": joules if known else None,
        "error_rel": _bound([energy for _, energy in known]),
        "error_null_reason": next((e.error_reason for _, e in known if e.error_rel is None), None),
        "null_reason": reason,
        "tok_per_joule": tokens / joules if joules > 0 and not part else None,
        "repeats": len(known),
        "reading_period_s": _reached([(samples, repeat.window) for repeat, samples in read]),
        "verified": meter.verified,
    }


def _reason(each: Sequence[tuple[OneRepeat, WindowEnergy]]) -> NullReason:
    """Why no repeat has joules: the first that is more than that nothing was read."""
    reasons = [energy.reason for _, energy in each if energy.reason is not None]
    said = [reason for reason in reasons if reason != NullReason.NOT_MEASURED]
    if not each:
        return NullReason.REPEAT_INCOMPLETE
    return said[0] if said else NullReason.NOT_MEASURED


def _bound(known: Sequence[WindowEnergy]) -> float | None:
    """The widest stated bound; None where one of the repeats has none."""
    errors = [energy.error_rel for energy in known]
    return None if None in errors else max((e for e in errors if e is not None), default=None)


def _reached(
    read: Sequence[tuple[PowerSamples | None, tuple[float, float]]],
) -> dict[str, float] | None:
    """Seconds between readings within the windows, as they were and not as they were asked for."""
    steps = [
        np.diff(samples.time_s[(samples.time_s >= start_s) & (samples.time_s <= end_s)])
        for samples, (start_s, end_s) in read
        if samples is not None
    ]
    every = np.concatenate(steps) if steps else np.zeros(0)
    if not len(every):
        return None
    return {"median": float(np.median(every)), "largest": float(every.max())}
