"""Numbers of findings as people read them."""

from __future__ import annotations

import math

from chipmark.gate.findings import GateRow

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


def amount(value: float | None, unit: str) -> str:
    """Four digits and the unit, times in a readable one: `1.234 ms`; `-` for none."""
    if value is None:
        return "-"
    if unit != "s":
        return f"{value:.4g} {unit}".rstrip() if unit != "1" else f"{value:.4g}"
    size, name = next((t for t in _TIMES if value >= t[0]), _TIMES[-1])
    return f"{value / size:.4g} {name}"


def change(row: GateRow) -> str:
    """new / base - 1 of the metric itself (a rate that falls is negative): `-3.1 %`."""
    found = row.judgement.estimate
    if found is None:
        return "-"
    sign = 1.0 if row.direction == "lower" else -1.0
    return signed(sign * found.effect)


def signed(ln: float) -> str:
    """A log ratio as `+5.1 %`; a bound that is infinite is not known: `?`."""
    return f"{100 * math.expm1(ln):+.1f} %" if math.isfinite(ln) else "?"
