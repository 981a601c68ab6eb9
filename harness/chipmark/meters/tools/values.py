"""Numbers as tools print them: a value in its unit's range, or the reason why there is none."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chipmark.meters.tools.reading import DieReading, Missing

_MISSING = frozenset((
    "", "-", "--", "n/a", "na", "none", "null", "nan", "unknown", "unknown error", "err!", "error",
    "not supported", "notsupported", "not available", "unsupported", "undefined", "insufficient",
    "insufficient permissions", "no permission", "permission denied", "invalid", "disabled", "/",
    "n.a.", "n.a", "unavailable", "err", "no data", "---", "nil",
))  # fmt: skip
"""What tools print in place of a number, in lower case and without brackets."""

_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,15}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})")


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


def quantity(
    text: str, unit: Unit, bare_factor: float = 1.0
) -> tuple[float | None, Missing | None]:
    """(value in the unit's base, None), or (None, why): "103.5 W", "43.09W", "[N/A]", "-".

    bare_factor: to the base, of a number without a unit, where the tool's header names one.
    """
    bare = text.strip().strip("[]()").strip()
    if bare.lower() in _MISSING or bare.lower().startswith(("n/a ", "n/a(")):
        return None, Missing.NOT_AVAILABLE
    number = _NUMBER.match(bare)
    if number is None:
        return None, Missing.UNREADABLE
    spelling = bare[number.end() :].strip().lower()
    factor = bare_factor if not spelling else unit.spellings.get(spelling)
    if factor is None:
        return None, Missing.UNREADABLE
    value = float(number.group()) * factor
    if not math.isfinite(value) or not unit.least <= value <= unit.most:
        return None, Missing.OUT_OF_RANGE
    if value == 0 and not unit.zero:
        return None, Missing.ZERO
    return value, None


_INTEGERS = ("memory_used_bytes", "memory_total_bytes", "ecc_errors", "processes")


class Fields:
    """Collects one device's fields from texts: the first text with a value is taken, and a field
    without one keeps the first reason."""

    def __init__(self, card: int, die: int = 0, **texts: Any) -> None:
        """texts: name, pci, uuid, shared, whole_card of the reading."""
        self.card, self.die, self._texts = card, die, texts
        self._values: dict[str, Any] = {}
        self._missing: dict[str, Missing] = {}

    def take(self, name: str, text: str, unit: Unit, bare_factor: float = 1.0) -> None:
        """A quantity from its text; a percentage as a share, a count or size as an integer."""
        if name in self._values:
            return
        value, why = quantity(text, unit, bare_factor)
        if value is not None and name in _INTEGERS and value != int(value):
            # Half a process is none; of a size the part of a byte is left out.
            value, why = (None, Missing.UNREADABLE) if unit is COUNT or value < 1 else (value, None)
        if value is None:
            self._missing.setdefault(name, why or Missing.UNREADABLE)
            return
        share = value / 100 if unit is PERCENT else value
        self._values[name] = int(share) if name in _INTEGERS else share

    def take_first(
        self,
        name: str,
        texts: Mapping[str, str],
        keys: Sequence[str],
        unit: Unit,
        bare_factor: float = 1.0,
    ) -> None:
        """A quantity by the first of these keys that is there."""
        for key in keys:
            if key in texts:
                self.take(name, texts[key], unit, bare_factor)
                return

    @property
    def asked(self) -> bool:
        """Whether there was a text for any quantity, with or without a value in it."""
        return bool(self._values or self._missing)

    def say(self, **values: Any) -> None:
        """Fields that are not numbers, throttle reasons for one."""
        self._values.update(values)

    def reading(self) -> DieReading:
        """What was collected."""
        return DieReading(self.card, self.die, **self._texts, **self._values, missing=self._missing)
