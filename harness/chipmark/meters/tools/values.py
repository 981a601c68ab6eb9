"""Numbers as tools print them: a value in its unit's range, or the reason why there is none."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from chipmark.meters.tools.reading import Missing

_MISSING = frozenset((
    "", "-", "--", "n/a", "na", "none", "null", "nan", "unknown", "unknown error", "err!", "error",
    "not supported", "notsupported", "not available", "unsupported", "undefined", "insufficient",
    "insufficient permissions", "no permission", "invalid", "disabled", "/",
))  # fmt: skip
"""What tools print in place of a number, in lower case and without brackets."""

_NUMBER = re.compile(r"[+-]?(?:\d{1,15}(?:\.\d{0,9})?|\.\d{1,9})")


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit's spellings with their factors to the base, and the base's range.

    A number without any unit is taken in the base.
    """

    spellings: dict[str, float]
    """In lower case."""
    least: float
    most: float
    zero: bool = True
    """Whether 0 can be true."""


WATTS = Unit({"w": 1.0, "watt": 1.0, "watts": 1.0, "mw": 1e-3, "kw": 1e3}, 0.0, 20_000.0, False)
CELSIUS = Unit({"c": 1.0, "°c": 1.0, "℃": 1.0}, -40.0, 150.0)
MEGAHERTZ = Unit({"mhz": 1.0, "ghz": 1e3}, 0.0, 20_000.0)
PERCENT = Unit({"%": 1.0}, 0.0, 100.0)
BYTES = Unit(
    {
        **dict.fromkeys(("b", "byte", "bytes"), 1.0),
        **dict.fromkeys(("k", "kb", "kib"), 2.0**10),
        **dict.fromkeys(("m", "mb", "mib"), 2.0**20),
        **dict.fromkeys(("g", "gb", "gib"), 2.0**30),
        **dict.fromkeys(("t", "tb", "tib"), 2.0**40),
    },
    0.0,
    2.0**50,
)
"""Tools mean powers of 1024 by all of these spellings."""
COUNT = Unit({}, 0.0, 1e15)


def quantity(text: str, unit: Unit) -> tuple[float | None, Missing | None]:
    """(value in the unit's base, None), or (None, why): "103.5 W", "43.09W", "[N/A]", "-"."""
    bare = text.strip().strip("[]()").strip()
    if bare.lower() in _MISSING:
        return None, Missing.NOT_AVAILABLE
    number = _NUMBER.match(bare)
    if number is None:
        return None, Missing.UNREADABLE
    spelling = bare[number.end() :].strip().lower()
    factor = 1.0 if not spelling else unit.spellings.get(spelling)
    if factor is None:
        return None, Missing.UNREADABLE
    value = float(number.group()) * factor
    if not math.isfinite(value) or not unit.least <= value <= unit.most:
        return None, Missing.OUT_OF_RANGE
    if value == 0 and not unit.zero:
        return None, Missing.ZERO
    return value, None
