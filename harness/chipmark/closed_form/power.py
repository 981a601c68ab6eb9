"""Joules of a simulated run and of its phases, integrated from the device's constants."""

from __future__ import annotations

import math

from chipmark.backends.sim.spec import SimSpec
from chipmark.closed_form.stepping import WholeRun


def window_joules(run: WholeRun, spec: SimSpec, origin_s: float) -> float:
    """Energy of the window: each launch at its phase's power, idle between launches.

    origin_s: the device's clock at the window's start, on which pulses keep their beat.
    """
    return math.fsum(phase_joules(run, spec, origin_s).values())


def phase_joules(run: WholeRun, spec: SimSpec, origin_s: float) -> dict[str, float]:
    """The same by kind of launch and `idle`, the time between launches."""
    watts = {"prefill": spec.prefill_w, "decode": spec.decode_w, "kv": spec.kv_w}
    joules, busy = dict.fromkeys((*watts, "idle"), 0.0), 0.0
    for launch in run.launches:
        busy += launch.end_s - launch.start_s
        joules[launch.kind] += watts[launch.kind] * _weighted(
            origin_s + launch.start_s, origin_s + launch.end_s, spec
        )
    joules["idle"] = spec.idle_w * (run.window_s - busy)
    return joules


def _weighted(start_s: float, end_s: float, spec: SimSpec) -> float:
    """Seconds from start to end, each weighted by what pulses make of its power: 1 + depth in the
    first half of a period, 1 - depth in the second."""
    if not spec.pulse_s:
        return end_s - start_s
    return _from_zero(end_s, spec) - _from_zero(start_s, spec)


def _from_zero(time_s: float, spec: SimSpec) -> float:
    whole = math.floor(time_s / spec.pulse_s)
    rest = time_s - whole * spec.pulse_s
    half = spec.pulse_s / 2
    high, low = 1 + spec.pulse_depth, 1 - spec.pulse_depth
    return whole * spec.pulse_s + high * min(rest, half) + low * max(rest - half, 0.0)
