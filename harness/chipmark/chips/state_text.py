"""The state of a device in a line, for people."""

from __future__ import annotations

from chipmark.chips.state import DeviceState


def state_text(state: DeviceState) -> str:
    """`1980 of 1980 MHz, 34 C, limit 700 of 700 W, not throttled, no other processes`; only what is
    known, "" where nothing is."""
    parts = [
        _of(state.clock_mhz, state.nominal_mhz, "MHz"),
        "" if state.memory_clock_mhz is None else f"memory {state.memory_clock_mhz:.0f} MHz",
        "" if state.temperature_c is None else f"{state.temperature_c:.0f} C",
        _limit(state),
        _throttle(state.throttle),
        "" if state.ecc_errors is None else f"{state.ecc_errors} uncorrected memory errors",
        _others(state.other_processes),
        state.shared or "",
        "" if state.busy is None else f"{state.busy:.0%} busy",
    ]
    return ", ".join(part for part in parts if part)


def _of(value: float | None, most: float | None, unit: str) -> str:
    if value is None:
        return "" if most is None else f"nominal {most:.0f} {unit}"
    return f"{value:.0f} {unit}" if most is None else f"{value:.0f} of {most:.0f} {unit}"


def _limit(state: DeviceState) -> str:
    if state.power_limit_w is None:
        return ""
    return f"limit {_of(state.power_limit_w, state.power_limit_default_w, 'W')}"


def _throttle(reasons: tuple[str, ...] | None) -> str:
    if reasons is None:
        return ""
    return f"clocks: {', '.join(reasons)}" if reasons else "not throttled"


def _others(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count or 'no'} other process{'' if count == 1 else 'es'}"
