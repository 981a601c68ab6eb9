"""Idle power: the loaded device with nothing to do."""

from __future__ import annotations

from pathlib import Path

from chipmark.cell.measure import MeasuredCell
from chipmark.cell.protocol import Idle
from chipmark.meters.replay import save_samples


def measure_idle(cell: MeasuredCell, name: str) -> Path | None:
    """Meter the loaded, idle device into `idle-NAME.npz`; None where nothing is measured."""
    meter, seconds = cell.inputs.meter, cell.idle_s
    if meter is None or not seconds:
        return None
    request = Idle(seconds)
    for child in cell.children:
        child.wake()
    meter.start()
    for child in cell.children:
        child.send_request(request)
    for child in cell.children:
        child.answer_to(request, seconds + cell.inputs.settings.limits.grace_s)
    samples = cell.folder / f"idle-{name}.npz"
    save_samples(samples, meter.stop())
    cell.seals.add(samples)
    for child in cell.children:
        child.park()
    return samples
