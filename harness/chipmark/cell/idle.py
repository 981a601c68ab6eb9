"""Idle power: the loaded device with nothing to do."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from chipmark.cell.measure import MeasuredCell
from chipmark.cell.protocol import Idle
from chipmark.codes import NoteCode
from chipmark.results.manifest import Note

OLDEST_S = 3600.0
"""Age at which the idle power of a loaded model and device is measured again."""


@dataclass(frozen=True, slots=True)
class KnownIdle:
    """Idle power as it was measured for a loaded model and device."""

    title: str
    """Of the cell that it was measured in."""
    files: Mapping[str, bytes]
    """Readings of all meters, by the name of their file in a cell's folder; kept here, as
    files in a folder can be changed by a process that is measured later."""
    ended_s: float
    """By the monotonic clock."""
    unix_s: float
    """The same moment of the calendar."""


class IdleOfLoaded:
    """Idle powers of this run by loaded model and device."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._known: dict[tuple[str, ...], KnownIdle] = {}
        self._now_s = now_s

    def take_over(self, cell: MeasuredCell) -> bool:
        """Give a loaded cell the readings of an earlier one of the same model on the same device,
        with a note of it; whether there were any that are not too old."""
        found = self._known.get(_loaded_as(cell))
        if found is None or self._now_s() - found.ended_s > OLDEST_S:
            return False
        for name, content in found.files.items():
            (cell.folder / name).write_bytes(content)
        cell.seals.add(*(cell.folder / name for name in found.files))
        at = datetime.datetime.fromtimestamp(found.unix_s, datetime.UTC)
        text = f"idle power as measured in {found.title} until {at.isoformat(timespec='seconds')}, "
        text += f"{self._now_s() - found.ended_s:.0f} s before: the same model on the same device"
        cell.take([Note(code=NoteCode.IDLE_REUSED, text=text)])
        return True

    def keep(self, cell: MeasuredCell) -> None:
        """Remember what a cell has just measured, where it measured anything."""
        paths = cell.power_files(cell.folder / "idle-before.npz")
        files = {path.name: path.read_bytes() for path in paths if path.is_file()}
        if "idle-before.npz" in files:
            title = cell.inputs.plan.title
            self._known[_loaded_as(cell)] = KnownIdle(title, files, self._now_s(), time.time())


def _loaded_as(cell: MeasuredCell) -> tuple[str, ...]:
    """Model and device, as loaded, and by which meters."""
    inputs, chip = cell.inputs, cell.inputs.chip
    meters = (inputs.meters.meter, *inputs.meters.beside)
    return (
        chip.name, str(chip.key), *cell.backends, inputs.model.weights_hash,
        inputs.plan.precision, *(m.info.name for m in meters if m is not None),
    )  # fmt: skip


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


def measure_idle_once(cell: MeasuredCell, known: IdleOfLoaded) -> None:
    """Idle power before the repeats, unless it is known of this model on this device."""
    if cell.idle_s and not known.take_over(cell):
        measure_idle(cell, "before")
        known.keep(cell)
