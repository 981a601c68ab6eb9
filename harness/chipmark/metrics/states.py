"""What a record's JSON says of the device in each repeat: clocks, heat, reasons, others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chipmark.chips.state import DeviceState, RepeatState, UnderLoad
from chipmark.metrics.rawcell import RepeatData

_NOT_WATCHED = UnderLoad(samples=0)


def state_details(repeats: Sequence[RepeatData]) -> list[dict[str, Any]]:
    """One object a repeat whose device was asked, by the repeat's number; None for what it did not
    say. Nothing of records from before it was kept."""
    return [
        {"repeat": index, **_of_repeat(state)}
        for index, repeat in enumerate(repeats)
        if repeat.timing is not None and (state := repeat.timing.state) is not None
    ]


def _of_repeat(state: RepeatState) -> dict[str, Any]:
    before, after = state.before, state.after
    during = state.during or _NOT_WATCHED
    looks = (before, after)
    nominal = before.nominal_mhz or after.nominal_mhz
    clock = during.clock_uncapped_mhz
    return {
        "source": state.source,
        "samples": during.samples,
        "period_s": during.period_s,
        "clock_least_mhz": during.clock_least_mhz,
        "clock_median_mhz": during.clock_median_mhz,
        "clock_uncapped_mhz": clock,
        "nominal_mhz": nominal,
        "clock_share": clock / nominal if clock is not None and nominal else None,
        "memory_clock_mhz": after.memory_clock_mhz,
        "temperature_most_c": _most(
            during.temperature_most_c, *(look.temperature_c for look in looks)
        ),
        "throttle": _reasons(state),
        "power_limit_w": after.power_limit_w,
        "power_limit_default_w": after.power_limit_default_w,
        "ecc_errors": after.ecc_errors,
        "other_processes": _most(during.other_processes, *(look.other_processes for look in looks)),
        "shared": after.shared,
        "busy_before": state.busy_before,
        "other_busy": after.other_busy,
        "waiting": after.waiting,
        "remarks": list(state.remarks),
    }


def _reasons(state: RepeatState) -> list[str] | None:
    """Every reason that was given in the repeat, what slows a device down and what does not."""
    given: list[DeviceState | UnderLoad] = [state.before, state.after]
    if state.during is not None:
        given.append(state.during)
    told = [look.throttle for look in given if look.throttle is not None]
    return sorted({name for names in told for name in names}) if told else None


def _most(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)
