"""Joules of each phase, of idle and of the harness: measured where one of them ran alone, else
regressed, else null; never by share of time.

`pure`: a stretch of at least 2 s and 20 updates of the meter in which launches of one phase follow
each other without a pause (or in which no step ran: idle); its power times the seconds of the
phase. `regressed`: windows of W, each at least twice as long as the meter's period and averaging,
have energies that are sums over phases of power x seconds, fitted by non-negative least squares;
95 % intervals by a bootstrap of blocks of neighbouring windows, the sensor's stated error on top.
A meter that lags shows a window's joules late: the seconds of a window are averaged over the same
lags, so that a phase shorter than the lag is not charged to its neighbours.

Phases, idle and harness must sum to the energy of W within 1 %. The harness is the host's part of a
step: the time of steps that no launch covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from chipmark.codes import NullReason
from chipmark.engine.contract import PHASES
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.metrics.attribution import step_spans
from chipmark.metrics.distributions import nonnegative
from chipmark.metrics.energy import energy_at, window_energy
from chipmark.metrics.events import Floats, RepeatView

IDLE, HARNESS = "idle", "harness"
NAMES: tuple[str, ...] = (*PHASES, IDLE, HARNESS)
"""In the order of the columns of a regression."""

PURE_S = 2.0
LEAST_WINDOWS = 60
MOST_CONDITION = 30.0
MOST_REST = 0.01
"""Limits of DEFINITIONS, section Energy: seconds of a pure window; windows of a regression; the
condition number of its columns, scaled to unit length; by how much the sum may differ."""

LEAST_SHARE = 0.001
"""Of W, that a phase must take for joules of its own: at ten times the mean power it draws as much
as the sum may differ by."""

_BUSY = 0.99
"""Share of a pure stretch that launches must cover: what its power is taken for."""

_OWN = 0.98
"""Share of a window that phases with joules of their own must make up."""

_MOST_WINDOWS = 2000
_LAGS = 16
_DRAWS = 400
_KEY = 0x70686173

Method = Literal["pure", "regressed"]


@dataclass(frozen=True, slots=True)
class PhaseEnergy:
    """Joules of a phase over all repeats, with a 95 % interval (None where there is none), and its
    seconds. Without joules and method where it took under 0.1 % of W: too little to tell."""

    energy_j: float | None
    interval: tuple[float, float] | None
    method: Method | None
    seconds: float


@dataclass(frozen=True, slots=True)
class PhaseEnergies:
    """By name, of those that took any time; empty with the reason where they are not known."""

    phases: Mapping[str, PhaseEnergy]
    reason: NullReason | None = None


@dataclass(frozen=True, slots=True)
class Metered:
    """A repeat with the joules of its W."""

    view: RepeatView
    samples: PowerSamples
    energy_j: float


def phase_energies(repeats: Sequence[Metered], meter: MeterInfo) -> PhaseEnergies:
    """Energies by phase over the repeats of one device."""
    clocks = [_PhaseClock(repeat.view) for repeat in repeats]
    seconds = np.zeros(len(NAMES))
    for clock, repeat in zip(clocks, repeats, strict=True):
        seconds += np.diff(clock.until(np.array([repeat.view.start_s, repeat.view.end_s])))[:, 0]
    seconds = np.maximum(seconds, 0.0)
    present = np.flatnonzero(seconds >= LEAST_SHARE * seconds.sum())
    # Rounding of times leaves picoseconds where a phase has no time.
    short = np.flatnonzero(
        (seconds > 1e-9 * seconds.sum()) & (seconds < LEAST_SHARE * seconds.sum())
    )
    whole = sum(repeat.energy_j for repeat in repeats)
    pure = _pure(repeats, clocks, meter, seconds)
    fitted = _regressed(repeats, clocks, meter, seconds, present)
    tries = [pure | {k: v for k, v in fitted.phases.items() if k not in pure}, dict(fitted.phases)]
    reason = fitted.reason or NullReason.PHASES_DO_NOT_SUM
    for found in tries:
        if all(NAMES[index] in found for index in present):
            rest = whole - sum(found[NAMES[index]].energy_j or 0.0 for index in present)
            if abs(rest) <= MOST_REST * whole:
                found |= {NAMES[i]: PhaseEnergy(None, None, None, float(seconds[i])) for i in short}
                return PhaseEnergies({name: found[name] for name in NAMES if name in found})
            reason = NullReason.PHASES_DO_NOT_SUM
    return PhaseEnergies({}, reason)


class _PhaseClock:
    """Seconds of each phase, of idle and of the harness up to a moment."""

    def __init__(self, view: RepeatView) -> None:
        launches = view.tables["launches"]
        order = np.argsort(launches["start_s"], kind="stable")
        self.start: Floats = launches["start_s"][order].astype(np.float64)
        # Of two launches that overlap by a clock's grain the later begins where the earlier ended.
        self.end: Floats = np.maximum.accumulate(launches["end_s"][order].astype(np.float64))
        if len(self.end):
            self.start = np.maximum(self.start, np.concatenate(([-np.inf], self.end[:-1])))
            self.start = np.minimum(self.start, self.end)
        self.phase = launches["phase"][order].astype(np.int64)
        self._steps = step_spans(view)
        self._began = view.start_s

    def until(self, at: Floats) -> Floats:
        """(names, times): seconds of each of NAMES between the window's start and these times."""
        rows = np.empty((len(NAMES), len(at)))
        for index in range(len(PHASES)):
            mine = self.phase == index
            rows[index] = _covered(self.start[mine], self.end[mine], at)
        busy = rows[: len(PHASES)].sum(axis=0)
        both = _union(
            np.concatenate((self.start, self._steps[:, 0])),
            np.concatenate((self.end, self._steps[:, 1])),
        )
        working = _covered(*both, at)
        rows[-2] = (at - self._began) - working
        rows[-1] = working - busy
        return rows

    def lagged(self, at: Floats, lags: Floats) -> Floats:
        """The same, averaged over times that are `lags` earlier."""
        found: Floats = np.mean([self.until(at - lag) for lag in lags], axis=0)
        return found

    def runs(self) -> Iterable[tuple[int, float, float, float]]:
        """(phase, start, end, seconds of launches) of neighbouring launches of one phase."""
        if not len(self.phase):
            return
        first = np.flatnonzero(np.concatenate(([True], np.diff(self.phase) != 0)))
        last = np.append(first[1:], len(self.phase)) - 1
        spans = np.concatenate(([0.0], np.cumsum(self.end - self.start)))
        for a, b in zip(first.tolist(), last.tolist(), strict=True):
            busy = float(spans[b + 1] - spans[a])
            yield int(self.phase[a]), float(self.start[a]), float(self.end[b]), busy

    def pauses(self, start_s: float, end_s: float) -> Iterable[tuple[float, float]]:
        """Stretches from start_s to end_s in which no step ran."""
        begins, ends = _union(
            np.concatenate((self.start, self._steps[:, 0])),
            np.concatenate((self.end, self._steps[:, 1])),
        )
        edges = zip([start_s, *ends.tolist()], [*begins.tolist(), end_s], strict=True)
        for a, b in edges:
            if min(b, end_s) > max(a, start_s):
                yield max(a, start_s), min(b, end_s)


def _pure(
    repeats: Sequence[Metered], clocks: Sequence[_PhaseClock], meter: MeterInfo, seconds: Floats
) -> dict[str, PhaseEnergy]:
    lag = meter.update_period_s + (meter.averaging_s or 0.0)
    joules, length = np.zeros(len(NAMES)), np.zeros(len(NAMES))
    bounds: dict[int, list[float | None]] = {}
    idle = NAMES.index(IDLE)
    for clock, repeat in zip(clocks, repeats, strict=True):
        view = repeat.view
        stretches = [(p, a, b) for p, a, b, busy in clock.runs() if busy >= _BUSY * (b - a)]
        stretches += [(idle, a, b) for a, b in clock.pauses(view.start_s, view.end_s)]
        for index, begin, end in stretches:
            # What the sensor shows before it has lagged into the stretch is of another phase.
            a, b = max(begin, view.start_s) + lag, min(end, view.end_s)
            if b - a < PURE_S:
                continue
            found = window_energy(repeat.samples, meter, a, b)
            if found.energy_j is not None:
                joules[index] += found.energy_j
                length[index] += b - a
                bounds.setdefault(index, []).append(found.error_rel)
    phases = {}
    for index, errors in bounds.items():
        energy = float(joules[index] / length[index] * seconds[index])
        worst = None if None in errors else max(e for e in errors if e is not None)
        ends = None if worst is None else (energy * (1 - worst), energy * (1 + worst))
        phases[NAMES[index]] = PhaseEnergy(energy, ends, "pure", float(seconds[index]))
    return phases


def _regressed(
    repeats: Sequence[Metered], clocks: Sequence[_PhaseClock], meter: MeterInfo, seconds: Floats,
    present: np.ndarray,
) -> PhaseEnergies:  # fmt: skip
    total_s = sum(repeat.view.window_s for repeat in repeats)
    least_s = 2 * max(meter.update_period_s, meter.averaging_s or 0.0)
    least_s = max(least_s, meter.reading_period_s or 0.0, total_s / _MOST_WINDOWS)
    lags = _lags(meter)
    columns, energies = [], []
    for clock, repeat in zip(clocks, repeats, strict=True):
        count = int(repeat.view.window_s / least_s + 1e-9)
        cuts = np.linspace(repeat.view.start_s, repeat.view.end_s, count + 1)
        parts = np.diff(clock.lagged(cuts, lags))
        # By its lag the first and the last window may hold what was before and after W.
        own = parts[present].sum(axis=0) >= _OWN * np.diff(cuts)
        columns.append(parts[present].T[own])
        energies.append(np.diff(energy_at(repeat.samples, meter, cuts))[own])
    features, joules = np.concatenate(columns), np.concatenate(energies)
    if len(joules) < LEAST_WINDOWS:
        return PhaseEnergies({}, NullReason.PHASES_TOO_FEW_WINDOWS)
    lengths = np.linalg.norm(features, axis=0)
    if not lengths.all() or np.linalg.cond(features / lengths) > MOST_CONDITION:
        return PhaseEnergies({}, NullReason.PHASES_ALIKE)
    scaled = features / lengths
    watts = nonnegative(scaled, joules) / lengths
    drawn = _bootstrap(scaled, joules) / lengths
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    error = meter.error_rel or 0.0
    return PhaseEnergies(
        {
            NAMES[index]: PhaseEnergy(
                float(watts[at] * seconds[index]),
                (
                    float(min(low[at], watts[at]) * seconds[index] * max(1 - error, 0.0)),
                    float(max(high[at], watts[at]) * seconds[index] * (1 + error)),
                ),
                "regressed",
                float(seconds[index]),
            )
            for at, index in enumerate(present.tolist())
        }
    )


def _lags(meter: MeterInfo) -> Floats:
    """By how many seconds the meter shows late, in equal shares: up to a period, for it holds what
    it saw, up to its averaging window, and up to a reading's period more or less, for between two
    readings the watts of both are weighed."""
    moment = meter.jittered and not meter.averaging_s
    held = 0.0 if moment else meter.update_period_s
    averaging = meter.averaging_s or 0.0
    if meter.source == "counter":
        averaging = 0.0
    middle = (np.arange(_LAGS) + 0.5) / _LAGS
    between = (meter.reading_period_s or 0.0) * (middle[:, None] + middle[None, :] - 1)
    late = held * middle[:, None] + averaging * middle[None, :]
    both = np.sort(np.add.outer(late.ravel(), between.ravel()).ravel())
    lags: Floats = both.reshape(_LAGS, -1).mean(axis=1)
    return np.unique(lags)


def _bootstrap(features: Floats, joules: Floats) -> Floats:
    """(draws, columns): the fit to windows drawn anew in blocks of neighbours, each of which may
    be drawn several times. Draws are raw bits under a fixed key: the same input, the same draws.
    """
    n = len(joules)
    size = max(1, round(n ** (1 / 3)))
    blocks = n // size
    used = blocks * size
    a = features[:used].reshape(blocks, size, -1)
    b = joules[:used].reshape(blocks, size)
    grams = np.einsum("bsi,bsj->bij", a, a)
    sides = np.einsum("bsi,bs->bi", a, b)
    bits = np.random.Philox(key=_KEY).random_raw(_DRAWS * blocks)
    index = (((bits >> np.uint64(32)) * np.uint64(blocks)) >> np.uint64(32)).astype(np.int64)
    found = []
    for row in index.reshape(_DRAWS, blocks):
        gram, side = grams[row].sum(axis=0), sides[row].sum(axis=0)
        # The same least squares by the eigenvectors of its normal equations: few rows for many.
        values, vectors = np.linalg.eigh(gram)
        roots = np.sqrt(np.maximum(values, 0.0))
        kept = roots > 1e-9 * roots[-1]
        target = (vectors.T @ side)[kept] / roots[kept]
        found.append(nonnegative(roots[kept, None] * vectors.T[kept], target))
    return np.array(found)


def _union(start: Floats, end: Floats) -> tuple[Floats, Floats]:
    """Spans that may overlap, as spans that do not."""
    if not len(start):
        return start, end
    order = np.argsort(start, kind="stable")
    start, end = start[order], np.maximum.accumulate(end[order])
    first = np.concatenate(([True], start[1:] > end[:-1]))
    last = np.append(first[1:], True)
    return start[first], end[last]


def _covered(start: Floats, end: Floats, at: Floats) -> Floats:
    """Seconds of these spans, which do not overlap, up to each time."""
    if not len(start):
        return np.zeros(len(at))
    whole = np.concatenate(([0.0], np.cumsum(end - start)))
    index = np.searchsorted(start, at, side="right")
    before = np.maximum(index - 1, 0)
    inside = np.clip(at - start[before], 0.0, end[before] - start[before])
    found: Floats = np.where(index > 0, whole[before] + inside, 0.0)
    return found
