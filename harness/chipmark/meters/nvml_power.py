"""How watts of an NVIDIA card are read: what its driver kept with times of its own, else one call.

NVML has three calls for power: the instantaneous field, the field of the average, and
nvmlDeviceGetPowerUsage (both over a second on Ampere and newer; GA100's is of the moment). Drivers
refuse any of them. Of a superchip (Grace Hopper) the fields also have the scope of the module,
which is GPU, CPU and their memory. nvmlDeviceGetSamples gives the sensor's own updates, dated in
microseconds since 1970 by the host's clock. Written from NVML's documents.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from chipmark.chips.nvml import POWER_AVERAGE_S, POWER_FIELDS, Card, watts
from chipmark.meters.poll import Reading, Stamped, changes_of, infer_period

MODULE = "NVML_POWER_SCOPE_MODULE"
"""The scope of a whole superchip."""

FALLBACK_PERIOD_S = 0.1
"""The slowest sensor that is reported; taken where idle hides the period."""

LEAST_READING_S = 0.01
"""Least seconds between readings: sensors are slower, and each reading costs host time."""

FETCH_S = 0.5
"""How often kept samples are fetched: drivers keep about two seconds of them."""

_OF_THE_MOMENT = re.compile(
    r"\b(?:A100|A800|A30X?|V100S?|TITAN|Quadro|GTX|RTX 20[5-8]0|[TPMK]\d{1,4}[A-Z]*)\b"
)
"""Names of GA100's cards and of those before Ampere."""

_FRESH_S = 1.0
_FEWEST = 5

InferPeriod = Callable[[Callable[[], float | None]], float | None]
"""`infer_period`, or what a test has in its place."""

_Call = tuple[str, Callable[[], float | None]]
"""What NVML is asked, and the question."""


@dataclass(frozen=True, slots=True)
class PowerWay:
    """How watts of one scope are read.

    Seconds. period_s: between the sensor's updates, taken where not `period_known`. reading_s:
    between readings as the samples show them; asked_s: between calls of `read`, which is the same
    unless the sensor dates its updates. averaging_s: as documented, None where nothing is.
    """

    method: str
    read: Callable[[], Reading | list[Stamped] | None]
    period_s: float
    period_known: bool
    reading_s: float
    asked_s: float
    averaging_s: float | None
    dated: bool = False


def usage_averaging_s(name: str) -> float | None:
    """The seconds that a card of this name gives its power usage as a mean over, None where it is
    the power of a moment: then a load in step with the sensor can hide from it."""
    return None if _OF_THE_MOMENT.search(name) else POWER_AVERAGE_S


def power_way(card: Card, infer: InferPeriod = infer_period) -> PowerWay | None:
    """The best way to read a card's watts; None where it refuses all."""
    kept = KeptSamples(card)
    if (found := kept.period_s()) is not None:
        return PowerWay(
            method="nvmlDeviceGetSamples of power, at the sensor's own times",
            read=kept.read,
            period_s=found,
            period_known=True,
            reading_s=found,
            asked_s=max(found, FETCH_S),
            averaging_s=None,
            dated=True,
        )
    return _polled(power_call(card), infer, usage_averaging_s(card.name))


def power_call(card: Card) -> _Call | None:
    """The first call for a card's watts that it answers; None where it refuses all. By it a reading
    asks once, whatever else the driver refuses."""
    fields: list[_Call] = [(name, partial(card.field_w, name)) for name in POWER_FIELDS]
    return _answered([*fields, ("nvmlDeviceGetPowerUsage", card.usage_w)])


def in_module(card: Card) -> bool:
    """Whether NVML tells the power of a module that a card is a part of.

    A module draws more than its card: a driver that takes no notice of the scope, and gives the
    card's own power, is not believed.
    """
    call = _answered(_module_calls(card))
    whole, own = call and call[1](), card.power_w()
    return whole is not None and (own is None or whole > own)


def module_way(card: Card, infer: InferPeriod = infer_period) -> PowerWay | None:
    """How to read the watts of the module that a card is a part of; None without a module."""
    if not in_module(card):
        return None
    return _polled(_answered(_module_calls(card)), infer, POWER_AVERAGE_S)


def _module_calls(card: Card) -> list[_Call]:
    return [(f"{name} of the module", partial(card.field_w, name, MODULE)) for name in POWER_FIELDS]


def _answered(calls: Sequence[_Call]) -> _Call | None:
    return next(((name, read) for name, read in calls if read() is not None), None)


def _polled(call: _Call | None, infer: InferPeriod, averaging_s: float | None) -> PowerWay | None:
    """By one call, again and again. averaging_s: of a call whose name does not say INSTANT."""
    if call is None:
        return None
    name, read = call
    found = infer(read)
    period_s = found or FALLBACK_PERIOD_S
    reading_s = max(LEAST_READING_S, period_s / 4)

    def reading() -> Reading | None:
        power = read()
        return None if power is None else (math.nan, power)

    return PowerWay(
        method=name,
        read=reading,
        period_s=period_s,
        period_known=found is not None,
        reading_s=reading_s,
        asked_s=reading_s,
        averaging_s=None if "INSTANT" in name else averaging_s,
    )


class KeptSamples:
    """The updates of power that a driver keeps, each given once, on this process's clock."""

    def __init__(
        self,
        card: Card,
        clock: Callable[[], float] = time.perf_counter,
        unix: Callable[[], float] = time.time,
    ) -> None:
        self._card, self._clock, self._unix = card, clock, unix
        self._last_us = 0
        self._last_s = -math.inf

    def period_s(self) -> float | None:
        """Seconds between updates; None where the driver keeps none, or none that are dated by
        this host's clock and of the last second."""
        found = self._since(0)
        age_s = self._unix() - found[-1][0] / 1e6 if found else math.inf
        if len(found) < _FEWEST or not -_FRESH_S < age_s < _FRESH_S:
            return None
        updates = changes_of([stamp / 1e6 for stamp, _ in found])
        return None if updates is None else updates.period_s

    def read(self) -> list[Stamped]:
        """Updates since the last call; of the first call the newest alone, since what came before
        is not asked for. One whose time is not after the last, or is in the future, is left out:
        the host's clock was set in between."""
        found = self._since(self._last_us)
        if not self._last_us:
            found = found[-1:]
        now = self._clock()
        # Both clocks again at every call, so that a slow drift between them does not add up.
        shift = now - self._unix()
        rows: list[Stamped] = []
        for stamp, power in found:
            at = stamp / 1e6 + shift
            if self._last_s < at <= now:
                rows.append((at, math.nan, power))
                self._last_s = at
            self._last_us = max(self._last_us, stamp)
        return rows

    def _since(self, stamp_us: int) -> list[tuple[int, float]]:
        """(microseconds since 1970, watts), rising."""
        kind = getattr(self._card.nvml, "NVML_TOTAL_POWER_SAMPLES", None)
        answer = None
        if kind is not None:
            answer = self._card.ask("nvmlDeviceGetSamples", kind, stamp_us)
        rows = [] if answer is None else answer[1]
        found = [(int(row.timeStamp), watts(row.sampleValue.uiVal)) for row in rows]
        return sorted((at, power) for at, power in found if power is not None and at > stamp_us)
