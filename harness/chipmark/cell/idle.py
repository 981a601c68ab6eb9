"""Idle power: the loaded device with nothing to do."""

from __future__ import annotations

from chipmark.cell.measure import MeasuredCell
from chipmark.cell.protocol import Idle


def measure_idle(cell: MeasuredCell, name: str) -> None:
    """Meter the loaded, idle device into `idle-NAME.npz`, by the row's meter and the others;
    nothing where the row's is none that measures."""
    seconds = cell.idle_s
    if not seconds:
        return
    request = Idle(seconds)
    for child in cell.children:
        child.wake()
    cell.metering.start()
    try:
        for child in cell.children:
            child.send_request(request)
        for child in cell.children:
            child.answer_to(request, seconds + cell.inputs.settings.limits.grace_s)
    finally:
        # A cell that ends here must not be metered while the others run.
        readings = cell.metering.stop()
    own = cell.folder / f"idle-{name}.npz"
    readings.save(own)
    cell.seals.add(*cell.power_files(own))
    cell.take(readings.notes)
    for child in cell.children:
        child.park()
