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
    child = cell.running()
    child.wake()
    meter.start()
    child.request(Idle(seconds), seconds + cell.inputs.settings.limits.grace_s)
    samples = cell.folder / f"idle-{name}.npz"
    save_samples(samples, meter.stop())
    cell.seals.add(samples)
    child.park()
    return samples
