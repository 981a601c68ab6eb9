"""The margin between sessions of one machine, by medians of the same benchmarks on several days."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from chipmark.gate.machine_bounds import ACROSS_SESSIONS
from chipmark.gate.simulation.noise import Noise

Key = tuple[str, str]

MIN_SESSIONS = 5
"""Fewer do not bound a spread: the bound of two is sixteen times what was seen, of five 2.4."""

DEVIATIONS = ACROSS_SESSIONS / Noise().between_sessions()
"""Standard deviations of ln(NEW / BASE) in the margin: those of the default, whose false reds
`python -m chipmark.gate.simulation.rule` shows."""

_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Movement:
    """Of one benchmark and metric. sd: of ln(median) over sessions; widest: ln of the largest
    median over the smallest; margin: for a stored baseline, ln, None for too few sessions."""

    key: Key
    sessions: int
    sd: float
    widest: float
    margin: float | None


def movement(key: Key, medians: Sequence[float]) -> Movement:
    """How far the medians of the sessions, above zero, lie apart.

    margin = DEVIATIONS x sqrt(2) x the upper 95 % bound of sd, by chi-square with sessions - 1
    degrees of freedom: a session is one draw, however many rounds it has. It takes ln(median) to
    be normal between sessions. Raises ValueError for fewer than two.
    """
    from scipy.stats import chi2

    logs = np.log(np.asarray(medians, np.float64))
    n = logs.size
    if n < 2 or not np.isfinite(logs).all():
        raise ValueError(f"{n} sessions: two or more with medians above zero are needed")
    sd = float(logs.std(ddof=1))
    margin = None
    if n >= MIN_SESSIONS:
        bound = sd * math.sqrt((n - 1) / float(chi2.ppf(1 - _LEVEL, n - 1)))
        margin = DEVIATIONS * math.sqrt(2) * bound
    return Movement(key, n, sd, float(np.ptp(logs)), margin)


def movements(sessions: Sequence[Mapping[Key, float]]) -> tuple[Movement, ...]:
    """Of every benchmark and metric that all sessions have; the widest margin is the machine's."""
    common = sorted(set.intersection(*(set(s) for s in sessions))) if sessions else []
    return tuple(movement(key, [s[key] for s in sessions]) for key in common)
