"""Values of both arms round by round, and which benchmarks an arm has lost on the way."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from chipmark.ab.readings import Direction, Lost, Reading
from chipmark.ab.schedule import ArmName
from chipmark.ab.session import Measured

Key = tuple[str, str]
"""Benchmark and metric."""


@dataclass(frozen=True, slots=True)
class Series:
    """Values of both arms of one benchmark and metric in one session, by round, in `unit`."""

    key: Key
    unit: str
    direction: Direction
    a: tuple[float, ...]
    b: tuple[float, ...]

    @property
    def d(self) -> list[float]:
        """ln(B / A) of each round, turned so that above 0 is worse."""
        sign = 1.0 if self.direction == "lower" else -1.0
        return [sign * math.log(b / a) for a, b in zip(self.a, self.b, strict=True)]


@dataclass(frozen=True, slots=True)
class Gap:
    """Why a benchmark and metric cannot be judged. missing: arm B has lost what arm A has; False:
    arm A lacks a value of some round, or there are numbers that cannot be used."""

    missing: bool
    reason: str


def series_of(measured: Sequence[Measured]) -> dict[Key, Series]:
    """Series of the rounds in which both arms gave a value, of one session."""
    values: dict[Key, dict[ArmName, dict[int, float]]] = {}
    about: dict[Key, Reading] = {}
    for m in measured:
        for reading in m.readings:
            by_arm = values.setdefault(reading.key, {"A": {}, "B": {}})
            by_arm[m.slot.arm][m.slot.round] = reading.value
            about[reading.key] = reading
    found = {}
    for key, arms in values.items():
        rounds = sorted(arms["A"].keys() & arms["B"].keys())
        if rounds:
            a, b = (tuple(arms[arm][r] for r in rounds) for arm in ("A", "B"))
            found[key] = Series(key, about[key].unit, about[key].direction, a, b)
    return found


def readings_of(measured: Sequence[Measured], arm: ArmName) -> dict[Key, list[Reading]]:
    """What an arm gave, by benchmark and metric, in order."""
    found: dict[Key, list[Reading]] = {}
    for m in measured:
        for reading in m.readings if m.slot.arm == arm else ():
            found.setdefault(reading.key, []).append(reading)
    return found


def gaps(
    every: Sequence[Measured], rounds: Sequence[Measured], closed: Collection[Key]
) -> dict[Key, Gap]:
    """Benchmarks and metrics of arm A without a value in some of `rounds`, which are of one
    session. every: all slots so far, which say what arm A has. closed: those that need no
    further rounds."""
    found: dict[Key, Gap] = {}
    for key in readings_of(every, "A"):
        if key in closed:
            continue
        for arm in ("B", "A"):
            for m in rounds:
                if m.slot.arm == arm and all(r.key != key for r in m.readings):
                    lost = _lost(m, key)
                    usable = lost is None or lost.failed
                    where = f"session {m.slot.session + 1}, round {m.slot.round + 1}"
                    why = "gave no value" if lost is None else lost.reason
                    reason = f"arm {arm}, {where}: {why}"
                    found.setdefault(key, Gap(arm == "B" and usable, reason))
    return found


def _lost(m: Measured, key: Key) -> Lost | None:
    return next(
        (lost for lost in m.lost if lost.benchmark == key[0] and lost.metric in ("", key[1])), None
    )
