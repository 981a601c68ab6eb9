"""What a record's JSON says of energy next to the columns: bounds, net values, joules by session,
by phase and by unit of work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from chipmark.codes import NullReason
from chipmark.metrics.attribution import attribute
from chipmark.metrics.energy_idle import IdlePower, idle_power, net_energy
from chipmark.metrics.energy_phases import Metered, phase_energies
from chipmark.metrics.intervals import percentile
from chipmark.metrics.one_repeat import OneRepeat
from chipmark.metrics.rawcell import RawCell


def energy_details(raw: RawCell, done: Sequence[OneRepeat]) -> dict[str, Any]:
    """Gross and net joules, their bounds, and what sessions, phases and units of work drew; {}
    where not measured."""
    meter = raw.facts.meter
    known = [r for r in done if r.energy.energy_j is not None]
    if meter is None or not known or raw.facts.meters_more:
        return {}
    joules = sum(r.energy.energy_j or 0.0 for r in known)
    window_s = sum(r.window_s for r in known)
    tokens = sum(r.metered.tokens for r in known)
    idle = idle_power(raw.idle_before, raw.idle_after, meter)
    net = net_energy(joules, idle, window_s)
    errors = [r.energy.error_rel for r in known]
    bound = None if None in errors else max(e for e in errors if e is not None)
    unbounded = [r.energy.error_reason for r in known if r.energy.error_rel is None]
    reason = None if net is not None else idle.reason or NullReason.NEGATIVE_NET
    return {
        "energy_j": joules,
        "method": known[0].energy.method,
        "error_rel": bound,
        "error_null_reason": unbounded[0] if unbounded else None,
        "largest_gap_s": max(r.energy.largest_gap_s for r in known),
        "gap_s": sum(r.energy.gap_s for r in known),
        "updates": min(r.energy.updates for r in known),
        "idle_w": None if idle.low_w is None else [idle.low_w, idle.high_w],
        "net_energy_j": None if net is None else list(net),
        "net_null_reason": reason,
        "net_power_w": None if net is None else [end / window_s for end in net],
        "tok_per_joule_net": _net_rate(tokens, net),
        "out_tok_per_joule": sum(r.metered.n_out for r in known) / joules if joules > 0 else None,
        "per": _per(known, idle),
        "by_session": _by_session(raw, known),
        **_by_phase(raw, known),
    }


def _net_rate(tokens: int, net: tuple[float, float] | None) -> list[float] | None:
    if net is None or net[0] <= 0:
        return None
    return [tokens / net[1], tokens / net[0]]


def _per(known: Sequence[OneRepeat], idle: IdlePower) -> dict[str, dict[str, Any]]:
    """Joules a session, a work token, an output token, and a turn that met the objective: gross,
    and net as a range."""
    sessions = [r.ratios["joule_per_session"] for r in known]
    lacking = [ratio.null_reason for ratio in sessions if ratio.value is None]
    met = [(r.ratios["goodput_turns_s"].value or 0.0) * r.window_s for r in known]
    counts: dict[str, float | NullReason] = {
        "joule_per_session": lacking[0] if lacking else sum(r.denominator or 0.0 for r in sessions),
        "joule_per_work_token": float(sum(r.metered.tokens for r in known)),
        "joule_per_output_token": float(sum(r.metered.n_out for r in known)),
        "joule_per_turn_in_slo": sum(met) or NullReason.SLO_NOT_MET,
    }
    joules = sum(r.energy.energy_j or 0.0 for r in known)
    net = net_energy(joules, idle, sum(r.window_s for r in known))
    return {name: _a_unit(count, joules, net, idle) for name, count in counts.items()}


def _a_unit(
    count: float | NullReason, joules: float, net: tuple[float, float] | None, idle: IdlePower
) -> dict[str, Any]:
    if not isinstance(count, float) or count <= 0:
        reason = NullReason.ZERO_DENOMINATOR if isinstance(count, float) else count
        return {"gross": None, "net": None, "null_reason": reason, "net_null_reason": reason}
    return {
        "gross": joules / count,
        "net": None if net is None else [end / count for end in net],
        "null_reason": None,
        "net_null_reason": None if net else idle.reason or NullReason.NEGATIVE_NET,
    }


def _by_phase(raw: RawCell, known: Sequence[OneRepeat]) -> dict[str, Any]:
    """`phases`: {name: {energy_j, interval, method, seconds}} over all repeats; None with
    `phases_null_reason`."""
    meter = raw.facts.meter
    metered = [
        Metered(r.views[0], r.power, r.energy.energy_j)
        for r in known
        if r.power is not None and r.energy.energy_j is not None
    ]
    if meter is None or not metered or meter.source in ("declared", "assumed"):
        return {"phases": None, "phases_null_reason": NullReason.NOT_MEASURED}
    if any(len(r.views) > 1 for r in known):
        return {"phases": None, "phases_null_reason": NullReason.SEVERAL_DEVICES}
    found = phase_energies(metered, meter)
    if found.reason is not None:
        return {"phases": None, "phases_null_reason": found.reason}
    phases = {name: asdict(phase) for name, phase in found.phases.items()}
    return {"phases": phases, "phases_null_reason": None}


def _by_session(raw: RawCell, known: Sequence[OneRepeat]) -> Mapping[str, Any]:
    """What sessions drew in the first repeat with energy; all parts sum to its E_W. {} of several
    replicas: one meter cannot tell which device drew what."""
    repeat, meter = known[0], raw.facts.meter
    if repeat.power is None or meter is None or len(repeat.views) > 1:
        return {}
    parts = attribute(repeat.views[0], repeat.power, meter, raw.facts)
    joules = parts.energy_j
    return {
        "energy_j": repeat.energy.energy_j,
        "sessions": len(joules),
        "min_j": float(joules.min()) if len(joules) else None,
        "p50_j": percentile(joules, 0.5),
        "max_j": float(joules.max()) if len(joules) else None,
        "allocated_j": float(joules.sum()),
        "unallocated_j": parts.unallocated_j,
    }
