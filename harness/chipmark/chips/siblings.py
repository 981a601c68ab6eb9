"""Which devices are the dies of one card.

Drivers of two-die cards number their dies one after another, card by card: dies 2 and 3 are those
of the second card (`npu-smi info` lists NPU and chip, `cnmon` card and core, both in that order).
Unverified on hardware.
"""

from __future__ import annotations

NUMBERED = ("torch", "sim")
"""Kinds of backend whose devices take a number, as `torch:npu:1`."""


def sibling_devices(backend: str, dies: int, visible: str = "") -> tuple[str, ...]:
    """Devices of the card that the device of a backend `KIND:DEVICE[:NUMBER]` is a die of, in the
    order of their numbers; no number is 0.

    visible: numbers of the dies that the process sees, in their order, as the vendor's runtime
    takes them from its variable; "" is all. Returns () where the card has one die, the kind of
    backend takes no numbers, or not all of its dies are seen.
    """
    kind, _, device = backend.partition(":")
    name, _, number = device.partition(":")
    if dies < 2 or kind not in NUMBERED or not (number or "0").isdigit():
        return ()
    here = int(number or 0)
    if not visible.strip():
        first = here // dies * dies
        return tuple(f"{name}:{first + die}" for die in range(dies))
    parts = [part.strip() for part in visible.split(",")]
    if here >= len(parts) or not all(part.isdigit() for part in parts):
        return ()
    seen = [int(part) for part in parts]
    first = seen[here] // dies * dies
    wanted = range(first, first + dies)
    if not all(die in seen for die in wanted):
        return ()
    return tuple(f"{name}:{seen.index(die)}" for die in wanted)
