"""What a row must say of the state of its device in a repeat: as (note code, text)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

from chipmark.chips.state import DeviceState, RepeatState, UnderLoad, is_hardware, is_thermal
from chipmark.codes import NoteCode

NOMINAL_SHARE = 0.95
"""Of the device's own nominal clock: below it under load, something slows the device down."""

HOST_SHARE = 0.10
"""Of the CPUs that are used: a host always runs something else, and less is its daily life."""

BUSY_SHARE = 0.05
"""Of a device that this run does not use now."""

Remark = tuple[NoteCode, str]


class NamedChip(Protocol):
    """What of a chip's identity, measured or stored, is asked."""

    @property
    def name(self) -> str:
        """As in the catalogue."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """Facts that name it."""
        ...

    @property
    def used(self) -> int:
        """Devices or slices in use."""
        ...

    @property
    def of(self) -> int:
        """Of so many of the unit."""
        ...


def throttle_notes(reasons: tuple[str, ...] | None, chip: str) -> list[Remark]:
    """Of what a watch saw: thermal, hardware, or that nothing could tell."""
    if reasons is None:
        return [(NoteCode.THROTTLE_UNKNOWN, f"{chip}: nothing here says whether it throttled")]
    notes = []
    for code, belongs in (
        (NoteCode.THROTTLED_THERMAL, is_thermal),
        (NoteCode.THROTTLED_HARDWARE, is_hardware),
    ):
        seen = [name for name in reasons if belongs(name)]
        if seen:
            notes.append((code, f"{chip}: {', '.join(seen)}"))
    return notes


def state_notes(state: RepeatState, earlier: DeviceState, named: NamedChip) -> list[Remark]:
    """Of one repeat, throttle reasons apart. earlier: the state before the first repeat. named: the
    chip of the row."""
    notes: list[Remark] = []
    chip = named.name
    whole = not named.identity.get("mig") and named.used == named.of
    if text := low_clock(state):
        notes.append((NoteCode.CLOCK_BELOW_NOMINAL, f"{chip}: {text}"))
    if text := _others(state):
        notes.append((NoteCode.OTHER_PROCESSES, f"{chip}: {text}"))
    first, last = earlier.ecc_errors, state.after.ecc_errors
    if first is not None and last is not None and last > first:
        text = f"{last - first} more uncorrected memory errors than before the first repeat"
        notes.append((NoteCode.ECC_ERRORS, f"{chip}: {text}"))
    # What the chip was named by was looked at before it was loaded.
    by_name = DeviceState(power_limit_w=named.identity.get("power_limit_w"))
    looks = (by_name, earlier, state.before)
    if changed := next((found for look in looks if (found := _changes(look, state.after))), None):
        notes.append((NoteCode.STATE_CHANGED, f"{chip}: {'; '.join(changed)}"))
    if state.after.shared and whole:
        notes.append(
            (NoteCode.SHARED_DEVICE, f"{chip}: the device is a share, {state.after.shared}")
        )
    other = state.after.other_busy
    if other is not None and other > HOST_SHARE:
        text = f"other processes took {other:.0%} of the CPUs' time"
        notes.append((NoteCode.HOST_LOAD, f"{chip}: {text}"))
    return notes


def low_clock(state: RepeatState) -> str:
    """How far the clock under load was below nominal, "" where it was not or is not known.

    A clock that the power limit holds down is not looked at. At its default the limit is the
    product as it is sold: a card that cannot hold its highest clock at its rated power is a slower
    card, and not one that was measured on a bad day. Below its default it is in the chip's name.
    Heat and hardware have notes of their own; a clock that was set by hand is in no chip's name.
    """
    nominal, during = state.before.nominal_mhz or state.after.nominal_mhz, state.during
    clock = None if during is None else during.clock_uncapped_mhz
    if not nominal or clock is None or during is None or clock >= NOMINAL_SHARE * nominal:
        return ""
    if state.slowdowns():
        return ""
    text = f"{clock:.0f} MHz under load, {clock / nominal:.0%} of its nominal {nominal:.0f} MHz"
    return f"{text}; {_why(during)}"


def _why(during: UnderLoad) -> str:
    if during.throttle is None:
        return "nothing says why"
    return f"it names {', '.join(during.throttle)}" if during.throttle else "it names no reason"


def _others(state: RepeatState) -> str:
    """Who else was on the device, "" where nothing shows that anything was."""
    during = state.during
    counts = [state.before.other_processes, state.after.other_processes]
    pids = {*state.before.other_pids, *state.after.other_pids}
    if during is not None:
        counts.append(during.other_processes)
        pids |= set(during.other_pids)
    most = max((count for count in counts if count is not None), default=0)
    if most:
        listed = f" (pid {', '.join(map(str, sorted(pids)))})" if pids else ""
        return f"{most} other process{'es' if most > 1 else ''} on the device{listed}"
    if state.busy_before is not None and state.busy_before > BUSY_SHARE:
        return f"{state.busy_before:.0%} busy while all processes of this run were stopped"
    return ""


def _changes(before: DeviceState, after: DeviceState) -> list[str]:
    found = []
    a, b = before.power_limit_w, after.power_limit_w
    # Limits that are enforced are rounded by some drivers.
    if a is not None and b is not None and not math.isclose(a, b, abs_tol=0.5):
        found.append(f"the power limit went from {a:g} W to {b:g} W")
    if None not in (before.shared, after.shared) and before.shared != after.shared:
        found.append(f"it went from {before.shared or 'whole'} to {after.shared or 'whole'}")
    return found
