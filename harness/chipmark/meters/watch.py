"""What meters say now: watts over a short stretch, and how old the last reading is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from chipmark.engine.contract import Clock
from chipmark.errors import ChipmarkError
from chipmark.meters.contract import Meter, PowerSamples

Temperature = Callable[[], float | None]
"""Degrees Celsius of a device now, None where it is not known."""


@dataclass(frozen=True, slots=True)
class MeterReading:
    """One look at a meter; each quantity is None where the meter does not give it."""

    meter: str
    scope: str
    covers: str
    power_w: float | None
    """The last watts, of a counter the mean since the look began."""
    energy_j: float | None
    """Of the counter, from a zero of its own."""
    cap_w: float | None
    temperature_c: float | None
    """Of the device, None where it is not known."""
    age_s: float | None
    """Seconds from the last reading to the end of the look."""
    verified: bool
    problem: str = ""
    """Why there is no reading; what went wrong with it."""


class Watch:
    """Several meters, looked at together.

    A look lasts at least as long as the slowest of them needs for one more update.
    """

    def __init__(
        self,
        meters: Sequence[Meter],
        clock: Clock,
        temperatures: Sequence[Temperature | None] = (),
    ) -> None:
        """temperatures: of each meter's device, in their order."""
        self._meters, self._clock = meters, clock
        self._temperatures = [*temperatures, *[None] * (len(meters) - len(temperatures))]

    def look(self, seconds: float) -> list[MeterReading]:
        """Read all of them for so long; one that cannot be read is a reading with its problem."""
        running: dict[int, Meter] = {}
        problems: dict[int, str] = {}
        try:
            for number, meter in enumerate(self._meters):
                try:
                    meter.start()
                except ChipmarkError as error:
                    problems[number] = error.message
                else:
                    running[number] = meter
            self._clock.sleep_until(self._clock.now() + seconds)
        finally:
            taken = {number: meter.stop() for number, meter in running.items()}
        now = self._clock.now()
        return [
            _reading(meter, taken.get(number), now, problems.get(number, ""), warmth and warmth())
            for number, (meter, warmth) in enumerate(
                zip(self._meters, self._temperatures, strict=True)
            )
        ]

    def looks(self, interval_s: float, seconds: float | None) -> Iterator[list[MeterReading]]:
        """Looks of `interval_s` each for `seconds`, None for as long as they are asked for; one at
        least."""
        until = None if seconds is None else self._clock.now() + seconds
        while True:
            yield self.look(interval_s)
            if until is not None and self._clock.now() >= until:
                return


def least_look_s(meters: Sequence[Meter]) -> float:
    """Seconds in which each of them has two updates of its counter or a reading of its watts."""
    return max((2.5 * meter.info.update_period_s for meter in meters), default=0.0)


def _reading(
    meter: Meter,
    samples: PowerSamples | None,
    now_s: float,
    problem: str,
    temperature_c: float | None,
) -> MeterReading:
    info = meter.info
    power = energy = age = None
    if samples is not None:
        power = _last(samples.power_w)
        energy = _last(samples.energy_j)
        if power is None and energy is not None:
            power = _slope(samples)
        if len(samples.time_s):
            age = max(0.0, now_s - float(samples.time_s[-1]))
        problem = "; ".join(samples.remarks)
        if power is None and not problem:
            problem = "it gave no watts in that time"
    return MeterReading(
        meter=info.name,
        scope=info.scope,
        covers=info.covers,
        power_w=power,
        energy_j=energy,
        cap_w=info.cap_w,
        temperature_c=temperature_c,
        age_s=age,
        verified=info.verified,
        problem=problem,
    )


def _last(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if len(finite) else None


def _slope(samples: PowerSamples) -> float | None:
    """Watts between the first and the last change of the counter: its updates do not fall on the
    readings around them."""
    good = np.isfinite(samples.energy_j)
    time_s, energy_j = samples.time_s[good], samples.energy_j[good]
    at = np.flatnonzero(np.diff(energy_j) != 0) + 1
    if len(at) < 2:
        return None
    first, last = at[0], at[-1]
    return float((energy_j[last] - energy_j[first]) / (time_s[last] - time_s[first]))
