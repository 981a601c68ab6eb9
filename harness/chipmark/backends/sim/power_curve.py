"""Power over time in closed form: straight pieces, whose energy between any two times is exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PowerCurve:
    """Watts that are linear in each piece and may jump between pieces.

    knots_s: n + 1 rising times. first_w, last_w: n watts each, where a piece begins and ends.
    Before the first and after the last knot the watts there hold.
    """

    knots_s: F64
    first_w: F64
    last_w: F64

    def at(self, time_s: F64) -> F64:
        """Watts at these times; where two pieces meet, those of the later one."""
        piece, share = self._place(time_s)
        watts: F64 = self.first_w[piece] + (self.last_w - self.first_w)[piece] * share
        return watts

    def energy(self, time_s: F64) -> F64:
        """Joules since the first knot; negative before it."""
        spans = np.diff(self.knots_s)
        whole = np.concatenate(([0.0], np.cumsum(spans * (self.first_w + self.last_w) / 2)))
        piece, share = self._place(time_s)
        rise = (self.last_w - self.first_w)[piece]
        inside = np.clip(time_s, self.knots_s[0], self.knots_s[-1])
        seconds = inside - self.knots_s[piece]
        outside = np.where(
            time_s < self.knots_s[0],
            (time_s - self.knots_s[0]) * self.first_w[0],
            np.maximum(time_s - self.knots_s[-1], 0.0) * self.last_w[-1],
        )
        joules: F64 = whole[piece] + seconds * (self.first_w[piece] + rise * share / 2) + outside
        return joules

    @property
    def least_w(self) -> float:
        """The lowest power that it ever has."""
        return float(min(self.first_w.min(), self.last_w.min()))

    @property
    def most_w(self) -> float:
        """The highest power that it ever has."""
        return float(max(self.first_w.max(), self.last_w.max()))

    def _place(self, time_s: F64) -> tuple[NDArray[np.int64], F64]:
        inside = np.clip(time_s, self.knots_s[0], self.knots_s[-1])
        piece = np.clip(
            np.searchsorted(self.knots_s, inside, side="right") - 1, 0, len(self.first_w) - 1
        )
        share = (inside - self.knots_s[piece]) / np.diff(self.knots_s)[piece]
        return piece, share


def steps(knots_s: Sequence[float] | F64, watts: Sequence[float] | F64) -> PowerCurve:
    """Constant watts in each piece."""
    level = np.asarray(watts, np.float64)
    return PowerCurve(np.asarray(knots_s, np.float64), level, level)


def launches(
    segments: Sequence[tuple[float, float, float]], idle_w: float, end_s: float
) -> PowerCurve:
    """Watts of launches (start_s, end_s, watts), in order, and `idle_w` between them, from second 0
    to `end_s` or the last launch's end."""
    knots, watts = [0.0], list[float]()
    for start, end, power in segments:
        if start > knots[-1]:
            knots.append(start)
            watts.append(idle_w)
        if end > knots[-1]:
            knots.append(end)
            watts.append(power)
    knots.append(max(end_s, knots[-1]) + 1.0)
    watts.append(idle_w)
    return steps(knots, watts)


def modulated(curve: PowerCurve, busy: PowerCurve, period_s: float, depth: float) -> PowerCurve:
    """Stepwise watts in pulses: where `busy` is 1 they are (1 + depth) times as high in the first
    half of a period and (1 - depth) times in the second; where it is 0 they stay."""
    last_s = curve.knots_s[-1]
    halves = np.arange(0.0, last_s, period_s / 2)
    knots = np.union1d(curve.knots_s, halves)
    middle = (knots[1:] + knots[:-1]) / 2
    swing = np.where((middle / period_s) % 1.0 < 0.5, depth, -depth)
    return steps(knots, curve.at(middle) * (1 + busy.at(middle) * swing))
