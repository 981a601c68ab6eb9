"""The best meter that is here: measured, then declared, then assumed, then none, and why."""

from __future__ import annotations

from chipmark.errors import ChipmarkError
from chipmark.log import logger_of
from chipmark.meters.contract import Meter
from chipmark.meters.declared import AssumedMeter, DeclaredMeter
from chipmark.meters.plugins import meter_factory
from chipmark.meters.request import MeterRequest
from chipmark.registry import plugins

_LOG = logger_of(__name__)


def pick_meter(request: MeterRequest) -> tuple[Meter | None, tuple[str, ...]]:
    """The meter of a unit and remarks for its row.

    A power of the user's goes first: the user knows that the sensor here is wrong or does not see
    a part. Below the catalogue's nameplate it is assumed, and the remarks say so.
    Plug-ins of `chipmark.meters` are asked in their order; one that cannot be read is a remark.
    """
    remarks: list[str] = []
    declared = DeclaredMeter.for_request(request)
    if declared is not None:
        refused = declared.info.source != "declared"
        return declared, (f"--power-w: {declared.info.method}",) if refused else ()
    for name in plugins("chipmark.meters"):
        if name == "declared":
            continue
        try:
            meter = meter_factory(name).for_request(request)
        except ChipmarkError as error:
            _LOG.info("meter %s cannot be read: %s", name, error.message)
            remarks.append(f"{name}: {error.message}. {error.hint}".strip())
            continue
        if meter is not None:
            _LOG.info("meter %s: %s, %s", name, meter.info.source, meter.info.method)
            return meter, tuple(remarks)
        _LOG.debug("meter %s does not meter %s of %s", name, request.unit, request.vendor)
    if request.assumed is not None:
        return AssumedMeter(request.assumed), tuple(remarks)
    remarks.append("power is not measured here; declare it with --power-w W")
    return None, tuple(remarks)
