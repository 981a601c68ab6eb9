"""Designs of the decode step: which implementations make it up, and on which devices.

A design is a set of implementations that belong together, as launches that wait for each other
do. `portable` runs everywhere and is what every other is checked against; which design a device is
given is measured in the whole step, never assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from chipmark_kernels.device import DeviceFacts


@dataclass(frozen=True, slots=True)
class Design:
    """One way to compute a decode step."""

    about: str
    """What sets it apart, in a line."""

    operations: Mapping[str, str] = field(default_factory=dict)
    """Implementations by operation of `ops.TABLE`; those that are not named are `triton`'s."""

    runs_on: Callable[[DeviceFacts], bool] = lambda facts: True
    """Whether a device has what its kernels use."""


DESIGNS: Mapping[str, Design] = {
    "portable": Design("each operation waits for the whole of the one before it"),
}
"""Designs by name, the portable one first."""


def designs_for(facts: DeviceFacts) -> tuple[str, ...]:
    """Names of the designs that run on a device."""
    return tuple(name for name, design in DESIGNS.items() if design.runs_on(facts))
