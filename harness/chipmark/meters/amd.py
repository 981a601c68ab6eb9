"""AMD cards by amdsmi: the energy accumulator where it can be believed, else the socket's power.

The accumulator does not count on some cards (MI100: the same value again and again) and counts
something else on others, by reports of users, so it is compared with the power at idle before it
is used. Both are of the package: GPU and its memory, without the board's converters and fans.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from chipmark.chips.amd import AmdCard, find_amd_card, open_amdsmi
from chipmark.chips.contract import HOST_UNITS
from chipmark.errors import ChipmarkError, MissingBackendError
from chipmark.log import logger_of
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.meters.poll import MakeSampler, Reading, Sampler, infer_period
from chipmark.meters.request import MeterRequest

_LOG = logger_of(__name__)

_FALLBACK_PERIOD_S = 0.1
_LEAST_READING_S = 0.01
_ERROR_REL = 0.05
_STEP_W = 1.0  # power is given in whole watts
_MOST_APART = 3.0
"""Counter and power of an idle card may differ by such a factor: a watt's step, and a moment
against a mean. What reports tell of is a counter that stands still, or is off by 100."""

_UNVERIFIED = "unverified on hardware: written from AMD's documents and tested by replay"
_TAKEN = f"the update period was not seen at idle and is taken as {_FALLBACK_PERIOD_S:g} s"


@dataclass(frozen=True, slots=True)
class _Counter:
    """What was seen of the accumulator at idle. rejected: why it is not used, "" where it is."""

    period_s: float | None
    rejected: str = ""


class AmdMeter:
    """One whole card. Sampled four times an update, at most every 10 ms."""

    def __init__(
        self,
        card: AmdCard,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
        sampler: MakeSampler = Sampler,
    ) -> None:
        """Raises ChipmarkError for a card that is split, or without any sensor."""
        if card.partition:
            raise ChipmarkError(
                f"the sensors count the whole card, which is split ({card.partition})",
                "measure energy on a card that is not split: amd-smi set --compute-partition SPX",
            )
        self._card, self._key = card, card.power_key()
        infer = partial(infer_period, clock=clock, sleep=sleep)
        counter = _look_at_counter(card, self._key, clock, infer)
        if (counter is None or counter.rejected) and self._key is None:
            why = "" if counter is None else f" ({counter.rejected})"
            raise ChipmarkError(
                f"this card gives neither energy nor power by amdsmi{why}",
                "give the card's power with --power-w, or go without energy",
            )
        self._counts = counter is not None and not counter.rejected
        found = counter.period_s if counter is not None and self._counts else infer(self._power)
        period = found or _FALLBACK_PERIOD_S
        notes = [_UNVERIFIED]
        if counter is not None and counter.rejected:
            notes.append(f"the energy counter is not used: {counter.rejected}")
        if found is None:
            notes.append(_TAKEN)
        reading = max(_LEAST_READING_S, period / 4)
        self.info = MeterInfo(
            name="amdsmi",
            source="counter" if self._counts else "polled",
            scope="package",
            method="amdsmi_get_energy_count"
            if self._counts
            else f"{self._key} of amdsmi_get_power_info",
            update_period_s=period,
            error_rel=_ERROR_REL,
            covers=f"one card, {card.pci or ', '.join(card.uuids) or 'the only one'}",
            verified=False,
            notes=tuple(notes),
            period_known=found is not None,
            reading_period_s=reading,
            cap_w=card.cap_w(),
            resolution_w=_STEP_W,
            jittered=True,
        )
        self._sampler = sampler(self._read, reading)

    @classmethod
    def for_request(cls, request: MeterRequest) -> AmdMeter | None:
        """The meter of an AMD card; None for other units, and where amdsmi is not here.

        Raises ChipmarkError where the card that computes is not known, is split, or has no sensor.
        """
        if request.vendor != "AMD" or request.unit in HOST_UNITS or request.metered != "unit":
            return None
        try:
            library = open_amdsmi()
        except MissingBackendError as error:
            _LOG.info("amdsmi is not here: %s", error.message)
            return None
        return cls(find_amd_card(library, request.device, request.key))

    def start(self) -> None:
        """Begin sampling."""
        self._sampler.start()

    def stop(self) -> PowerSamples:
        """End sampling; energy in joules since the driver was loaded, power in watts."""
        return self._sampler.stop()

    def _power(self) -> float | None:
        return None if self._key is None else self._card.power_w(self._key)

    def _read(self) -> Reading | None:
        energy = self._card.energy_j() if self._counts else None
        power = self._power()
        if energy is None and power is None:
            return None
        return (
            math.nan if energy is None else energy,
            math.nan if power is None else power,
        )


def _look_at_counter(
    card: AmdCard,
    key: str | None,
    clock: Callable[[], float],
    infer: Callable[[Callable[[], float | None]], float | None],
) -> _Counter | None:
    """How the accumulator moves at idle, and whether at the rate of the power; None where there
    is none."""
    first = card.energy_j()
    if first is None:
        return None
    began = clock()
    before = None if key is None else card.power_w(key)
    period = infer(card.energy_j)
    last, after = card.energy_j(), None if key is None else card.power_w(key)
    seen = [power for power in (before, after) if power is not None]
    if period is None:
        return _Counter(None, "it stood still for a second" if seen else "")
    if last is None or not seen:
        return _Counter(period)
    rate, power = (last - first) / (clock() - began), sum(seen) / len(seen)
    if power / _MOST_APART <= rate <= power * _MOST_APART:
        return _Counter(period)
    return _Counter(
        period, f"at idle it counted {rate:.3g} W, and the card's power was {power:.3g} W"
    )
