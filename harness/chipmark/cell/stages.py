"""The stages of a cell, each a measurement whose result is kept in the cell."""

from __future__ import annotations

import time

from chipmark.cell.idle import IdleOfLoaded, measure_idle, measure_idle_once
from chipmark.cell.measure import MeasuredCell
from chipmark.cell.parity_check import check_parity
from chipmark.cell.quality import check_quality
from chipmark.cell.repeat import measure_repeat
from chipmark.cell.replicas import worst_parity
from chipmark.cell.sweep import find_concurrency


def parity(cell: MeasuredCell) -> None:
    """Compare with the oracle through the path that is timed."""
    began = time.monotonic()
    cell.parity = worst_parity(
        [check_parity(cell, replica) for replica in range(len(cell.backends))]
    )
    cell.check_s = time.monotonic() - began


def quality(cell: MeasuredCell) -> None:
    """What quantising loses against the source's weights."""
    cell.quality = check_quality(cell)


def sweep(cell: MeasuredCell) -> None:
    """Find N of a cell in the capacity scenario."""
    found = find_concurrency(cell)
    cell.sweep = found.points
    cell.concurrency = found.concurrency
    cell.capacity = found.capacity
    cell.take(found.notes)


def idle_before(cell: MeasuredCell) -> None:
    """Idle power before the repeats."""
    measure_idle(cell, "before")


def idle_once(cell: MeasuredCell, known: IdleOfLoaded) -> None:
    """Idle power before the repeats, of a loaded model and device once in a run."""
    measure_idle_once(cell, known)


def idle_after(cell: MeasuredCell) -> None:
    """Idle power after the repeats."""
    measure_idle(cell, "after")


def repeat(cell: MeasuredCell) -> None:
    """The next timed repeat."""
    done = measure_repeat(cell, cell.repeats_done)
    cell.take(done.notes)
    cell.repeats_done = done.index + 1
    cell.repeat_s = max(cell.repeat_s, done.seconds)


def restart(cell: MeasuredCell) -> None:
    """Fresh processes in place of the cell's."""
    for child in cell.children:
        child.close(cell.inputs.settings.limits.close_s)
    cell.answer = None
    cell.start()
    cell.finish_load()
