"""A constant power: declared by the user, or assumed from a nameplate. Neither is measured."""

from __future__ import annotations

import math
import time

import numpy as np

from chipmark.errors import UsageError
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.meters.request import AssumedPower, MeterRequest


class ConstantMeter:
    """Two samples of one power, at the start and at the end."""

    def __init__(self, info: MeterInfo, power_w: float) -> None:
        self.info = info
        self.power_w = power_w
        self._start_s = math.nan

    def start(self) -> None:
        """Note the time."""
        self._start_s = time.perf_counter()

    def stop(self) -> PowerSamples:
        """The power at start and now; no energy counter."""
        times = np.array([self._start_s, time.perf_counter()])
        return PowerSamples(times, np.full(2, np.nan), np.full(2, self.power_w))


class DeclaredMeter(ConstantMeter):
    """`--power-w`: the user's nameplate figure, a lower bound of tokens per joule."""

    def __init__(self, power_w: float, unit: str) -> None:
        if not 0 < power_w < math.inf:
            raise UsageError(f"--power-w is {power_w:g}: not a power", "give watts above 0")
        super().__init__(
            MeterInfo(
                name="declared",
                source="declared",
                scope="cpu-share" if unit == "cpu-share" else "board",
                method=f"declared by the user: {power_w:g} W, constant",
                update_period_s=0.0,
                covers=unit,
            ),
            power_w,
        )

    @classmethod
    def for_request(cls, request: MeterRequest) -> DeclaredMeter | None:
        """The meter where the user declared a power."""
        if request.declared_w is None:
            return None
        return cls(request.declared_w, request.unit)


class AssumedMeter(ConstantMeter):
    """A share of a nameplate: printed with `~` and never ranked."""

    def __init__(self, assumed: AssumedPower) -> None:
        super().__init__(
            MeterInfo(
                name="assumed",
                source="assumed",
                scope=assumed.scope,
                method=assumed.method,
                update_period_s=0.0,
                covers=assumed.covers,
            ),
            assumed.power_w,
        )
