"""What a meter is asked for, in terms that need no chip catalogue."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from chipmark.chips.contract import DeviceKey
from chipmark.meters.choice import MeterChoice
from chipmark.meters.contract import Scope

Metered = Literal["unit", "host", "node"]
"""What a meter is asked to cover: the chip's unit, the host's processors next to it, or the whole
server (its boards, its power supply, its plug)."""


@dataclass(frozen=True, slots=True)
class AssumedPower:
    """A power worked out from a nameplate: `method` tells how, for the row."""

    power_w: float
    scope: Scope
    covers: str
    method: str


@dataclass(frozen=True, slots=True)
class MeterRequest:
    """The unit to be metered.

    vendor, unit: of the chip. device: after the colon of the backend's name (`cuda:0`).
    declared_w: the user's figure. nameplate_w: the catalogue's figure of the whole unit, None
    where it has none. assumed: what may be charged where nothing is measured or declared, None
    where the catalogue does not say. key: the very card, as the computing process reported it;
    empty before it has, and then a meter serves only where the device's name leaves one card.
    metered: what is to be covered. choices: the meters that the user named, with their options.
    """

    vendor: str
    unit: str
    device: str
    declared_w: float | None = None
    assumed: AssumedPower | None = None
    nameplate_w: float | None = None
    key: DeviceKey = field(default_factory=DeviceKey)
    metered: Metered = "unit"
    choices: tuple[MeterChoice, ...] = ()

    def choice(self, name: str) -> MeterChoice | None:
        """What the user gave with `--meter NAME`; None where that meter was not named."""
        return next((choice for choice in self.choices if choice.name == name), None)
