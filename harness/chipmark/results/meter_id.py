"""A meter as stored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator

from chipmark.results.meter_files import one_file_each
from chipmark.results.numbers import Amount
from chipmark.results.stored_part import StoredPart


class MeterId(StoredPart):
    """meters.contract.MeterInfo as stored."""

    name: str
    source: Literal["counter", "polled", "wall", "declared", "assumed"]
    scope: str
    method: str
    update_period_s: Amount
    averaging_s: Amount | None = None
    error_rel: Amount | None = None
    covers: str = ""
    verified: bool = True
    notes: tuple[str, ...] = ()
    period_known: bool = True
    reading_period_s: Amount | None = None
    cap_w: Amount | None = None
    resolution_w: Amount | None = None
    jittered: bool = False
    clock_s: Amount | None = 0.0


def _told_apart(meters: tuple[MeterId, ...]) -> tuple[MeterId, ...]:
    one_file_each(meter.name for meter in meters)
    return meters


MetersBeside = Annotated[tuple[MeterId, ...], AfterValidator(_told_apart)]
"""Meters next to a row's own, whose files have different names."""
