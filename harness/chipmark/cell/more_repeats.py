"""Repeats beyond those that were asked for, while intervals are wide and the time lasts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from chipmark.cell.measure import MeasuredCell
from chipmark.cell.steadiness import Steadiness, steadiness
from chipmark.codes import NoteCode
from chipmark.errors import ChipmarkError
from chipmark.results.manifest import Note


def share_of(until_s: float, now_s: float, groups: int) -> float:
    """When a group must have ended its added repeats, so that each of the `groups` that are still
    to be measured, this one included, has an equal part of the time left."""
    return now_s + max(0.0, until_s - now_s) / groups


def add_repeats(
    cells: Sequence[MeasuredCell],
    until_s: float,
    once: Callable[[int, Sequence[int], str], None],
    now_s: Callable[[], float] = time.monotonic,
    *,
    audit_s: float = 0.0,
    idle_after: bool = True,
) -> None:
    """Repeat the cells whose ranked metric is uncertain until it is certain enough or another
    round would not end before `until_s`, and leave a note in each such cell.

    once(repeat, which, text): one repeat of the cells at these indices, in rotating order. What
    follows the repeats has its time too: idle power where it is measured after them
    (`idle_after`), and the audit, which is taken to need as long as parity did and at least
    `audit_s`: parity is quick where its reference was in the cache, and no audit's does.
    """
    added: dict[int, Steadiness] = {}
    spent = False
    while True:
        wide = {
            index: found
            for index, cell in enumerate(cells)
            if cell.alive and not (found := _look(cell)).enough
        }
        if not wide:
            break
        needed = sum(cells[index].repeat_s for index in wide)
        alive = [cell for cell in cells if cell.alive]
        needed += sum(cell.idle_s for cell in alive) if idle_after else 0.0
        needed += max(audit_s, sum(cell.check_s for cell in alive))
        if now_s() + needed > until_s:
            spent = True
            break
        repeat = max(cells[index].repeats_done for index in wide)
        once(repeat, sorted(wide), f"repeat {repeat + 1}, as {next(iter(wide.values()))}")
        added |= wide
    for index, cell in enumerate(cells):
        if not cell.alive or (index not in added and not (spent and index in wide)):
            continue
        found = wide.get(index) or _look(cell)
        text = str(found)
        if spent and not found.enough:
            text += "; the time budget of the run does not allow more"
        cell.notes.append(Note(code=NoteCode.REPEATS_ADDED, text=text))


def _look(cell: MeasuredCell) -> Steadiness:
    try:
        return steadiness(cell)
    except (ChipmarkError, OSError) as error:
        # Events that cannot be read fail when the record is written; more would not help.
        return Steadiness(f"no metric ({error})", cell.repeats_done, 0.0)
