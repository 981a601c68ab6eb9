"""The best meter that is here: measured, then declared, then assumed, then none, and why."""

from __future__ import annotations

from chipmark.errors import ChipmarkError
from chipmark.meters.contract import Meter
from chipmark.meters.declared import AssumedMeter, DeclaredMeter
from chipmark.meters.request import MeterRequest
from chipmark.registry import load_plugin, plugins


def pick_meter(request: MeterRequest) -> tuple[Meter | None, tuple[str, ...]]:
    """The meter of a unit and remarks for its row.

    A declared power goes first: the user knows that the sensor here is wrong or lacks a part.
    Each plug-in of `chipmark.meters` is a class with `for_request(request) -> Meter | None`.
    """
    remarks: list[str] = []
    declared = DeclaredMeter.for_request(request)
    if declared is not None:
        return declared, ()
    for name in plugins("chipmark.meters"):
        if name == "declared":
            continue
        try:
            meter: Meter | None = load_plugin("chipmark.meters", name).for_request(request)
        except ChipmarkError as error:
            remarks.append(f"{name}: {error.message}. {error.hint}".strip())
            continue
        if meter is not None:
            return meter, tuple(remarks)
    if request.assumed is not None:
        return AssumedMeter(request.assumed), tuple(remarks)
    remarks.append("power is not measured here; declare it with --power-w W")
    return None, tuple(remarks)
