"""Which measured joules a gate may compare: those of like sources, scope and whole units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from chipmark.gate.stored_series import Value
from chipmark.results.record import Record
from chipmark.table.comparable import MEASURED, whole_unit


def of_energy(value: Value, record: Record) -> Value:
    """A value of an energy metric with what the rules of energy ask of it.

    Counter, polled and wall power were measured and may meet. A declared or assumed power is what
    somebody wrote down: it says nothing of a change, whatever the other side has.
    """
    meter = record.manifest.meter
    if meter is None:
        return replace(value, unfit=(*value.unfit, "energy is not known"))
    reasons = []
    if meter.source not in MEASURED:
        reasons.append(f"energy is {meter.source}, not measured")
    if not whole_unit(record):
        reasons.append("a part of the unit was used")
    covers = {"power scope": meter.scope, "unit": record.manifest.chip.unit}
    return replace(
        value,
        unfit=(*value.unfit, *reasons),
        work=dict(value.work) | covers,
        meter=meter.source,
        meter_error=record.metrics.energy.get("error_rel", meter.error_rel),
    )


def meters_differ(before: Sequence[Value], after: Sequence[Value]) -> float | None:
    """What two unlike meters may differ by without any change, ln: both stated bounds, added.

    0 for the same source on both sides, whose error is in both and cancels; None where one of
    unlike meters has no stated bound.
    """
    if len({value.meter for value in (*before, *after)}) < 2:
        return 0.0
    bounds = []
    for side in (before, after):
        errors = [value.meter_error for value in side]
        known = [error for error in errors if error is not None and 0 <= error < 1]
        if len(known) < len(errors):
            return None
        bounds.append(-math.log1p(-max(known)))
    return math.fsum(bounds)
