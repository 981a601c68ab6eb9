"""A constant power: declared by the user, or assumed from a nameplate. Neither is measured."""

from __future__ import annotations

import math
import time

import numpy as np

from chipmark.errors import UsageError
from chipmark.meters.contract import MeterInfo, PowerSamples, SourceClass
from chipmark.meters.request import AssumedPower, MeterRequest

NAMEPLATE_ROUNDING = 1e-3
"""A declared power may be below the nameplate by this share: what rounding its digits does."""


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
    """`--power-w`: the user's figure of the unit.

    It is `declared`, an upper bound of power and so a lower bound of tokens per joule, only where
    it is at least the catalogue's nameplate of the unit; any other figure is `assumed`.
    """

    def __init__(self, power_w: float, unit: str, nameplate_w: float | None = None) -> None:
        """Raises UsageError for a power that is none."""
        if not 0 < power_w < math.inf:
            raise UsageError(f"--power-w is {power_w:g}: not a power", "give watts above 0")
        source, remark = _class_of(power_w, nameplate_w)
        super().__init__(
            MeterInfo(
                name="declared",
                source=source,
                scope="cpu-share" if unit == "cpu-share" else "board",
                method=f"given by the user: {power_w:g} W, constant; {remark}",
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
        return cls(request.declared_w, request.unit, request.nameplate_w)


def _class_of(power_w: float, nameplate_w: float | None) -> tuple[SourceClass, str]:
    if nameplate_w is None:
        return "assumed", "the catalogue has no nameplate of this unit, so it proves no bound"
    # The catalogue's figure is divided among vCPUs: a user who writes it down rounds it.
    if power_w < nameplate_w * (1 - NAMEPLATE_ROUNDING):
        return (
            "assumed",
            f"below the unit's nameplate of {nameplate_w:.4g} W, so it proves no bound",
        )
    return "declared", f"at least the unit's nameplate of {nameplate_w:.4g} W"


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
