"""Designs of the decode step: which implementations make it up, and on which devices.

A design is a set of implementations that belong together, as launches that wait for each other
do. `portable` runs everywhere and is what every other is checked against; which design a device is
given is measured in the whole step, never assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chipmark_models.decoder.paged.ops import TABLE

if TYPE_CHECKING:
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


def _launches_early(facts: DeviceFacts) -> bool:
    # Here, for this imports Triton, and names of designs are asked for where there is none.
    from chipmark_kernels.dependent_launch import launches_early

    return launches_early(facts)


PORTABLE = "portable"
_EARLY = dict.fromkeys(TABLE.partial["pdl"], "pdl")

DESIGNS: Mapping[str, Design] = {
    PORTABLE: Design("each operation waits for the whole of the one before it"),
    "pdl": Design(
        "each operation begins, and asks for its weights, while the one before it works",
        _EARLY,
        _launches_early,
    ),
    "joined": Design(
        "rotation, cache write, attention and merge are one launch",
        {"rope_decode_attention": "fused"},
        lambda facts: facts.vendor != "npu",
    ),
    "fused": Design(
        "five launches a layer, each of which begins while the one before it works",
        _EARLY | {"rope_decode_attention": "fused"},
        _launches_early,
    ),
    "fused_ahead": Design(
        "as fused; attention asks for the next weights while it waits",
        _EARLY | {"rope_decode_attention": "fused_ahead"},
        _launches_early,
    ),
}
"""Designs by name, the portable one first."""


def designs_for(facts: DeviceFacts) -> tuple[str, ...]:
    """Names of the designs that run on a device."""
    return tuple(name for name, design in DESIGNS.items() if design.runs_on(facts))
