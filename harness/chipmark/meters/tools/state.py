"""The state of a card by its vendor's tool, found as the tool's meter finds it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from chipmark.chips.device_users import DeviceUsers
from chipmark.chips.state import (
    UNVERIFIED,
    DeviceState,
    Sample,
    holds_highest_clock,
    is_idle,
    is_power_cap,
)
from chipmark.errors import ChipmarkError
from chipmark.log import logger_of
from chipmark.meters.plugins import meter_factory
from chipmark.meters.request import MeterRequest
from chipmark.meters.tools.cards import Card, card_that_computes, cards_of
from chipmark.meters.tools.devices import ToolHere, find_tool
from chipmark.meters.tools.reading import DieReading
from chipmark.meters.tools.tool import Tool
from chipmark.registry import plugins

_LOG = logger_of(__name__)

_FIELDS = (
    "cap_w", "temperature_c", "clock_mhz", "nominal_mhz", "memory_clock_mhz", "busy", "throttle",
    "ecc_errors", "processes",
)  # fmt: skip
_MOVING = ("power_w", "temperature_c", "clock_mhz", "busy", "throttle", "processes")
_LEAST_PERIOD_S = 2.0
_SHARE = 0.2
"""Of the time that asking may take: a quarter of what the meter of the same tool takes."""

_CALL_LIMIT_S = 5.0
_FAILURES = 3
"""Samples in a row without an answer, after which the tool is left alone for the repeat."""

_FRESH_S = 1.0
"""An answer of this age is the device now: what is asked on top of it is asked of the tool once."""

_LOADED = 0.1  # the gauge is a mean over the tool's own time
_AT_CAP = 0.95
"""Share of its limit at which a card that gives no reasons draws what its limit allows."""


class ToolSource:
    """One card by the tool of its vendor."""

    def __init__(
        self,
        here: ToolHere,
        card: Card,
        users: DeviceUsers | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._here, self._card = here, card
        self.name = here.tool.name
        self.remarks: tuple[str, ...] = ()
        if not here.tool.verified:
            self.remarks = (f"{UNVERIFIED}: {self.name} is read by its documents",)
        self._users, self._clock = users or DeviceUsers(), clock
        self._state = DeviceState()
        self._moving: tuple[str, ...] = ()
        self._last: tuple[float, tuple[DieReading, ...]] = (-_FRESH_S, ())
        self._failures = 0
        self._sample_s = 0.0

    @property
    def period_s(self) -> float | None:
        """By how long the tool takes; None where what it says of the card does not move."""
        if not self._moving:
            return None
        return max(_LEAST_PERIOD_S, self._sample_s / _SHARE)

    def read(self) -> DeviceState:
        """Everything that the tool says; nothing where it does not answer."""
        self._users.look_at_own()
        self._failures = 0
        dies, seconds = self._ask(_FIELDS)
        found = _found(dies)
        self._moving = tuple(name for name in _MOVING if name in found)
        self._sample_s = max(self._sample_s, seconds)
        others = self._users.beyond_own(_total(dies, "processes"))
        self._state = DeviceState(
            clock_mhz=_least(dies, "clock_mhz"),
            nominal_mhz=_least(
                [die for die in dies if holds_highest_clock(die.name)], "nominal_mhz"
            ),
            memory_clock_mhz=_least(dies, "memory_clock_mhz"),
            temperature_c=_most(dies, "temperature_c"),
            throttle=_reasons(dies),
            power_limit_w=_most(dies, "cap_w"),
            ecc_errors=_total(dies, "ecc_errors"),
            other_processes=others.count,
            shared=next((die.shared for die in dies if die.shared), "") if dies else None,
            busy=_most(dies, "busy"),
        )
        return self._state

    def sample(self) -> Sample:
        """What of it moves."""
        dies = self._last[1]
        if self._clock() - self._last[0] >= _FRESH_S:
            if self._failures >= _FAILURES:
                return Sample()
            dies, self._sample_s = self._ask(self._moving)
            self._failures = 0 if dies else self._failures + 1
        reasons, busy = _reasons(dies), _most(dies, "busy")
        loaded = None if busy is None else busy >= _LOADED
        if any(map(is_idle, reasons or ())):
            loaded = False
        return Sample(
            clock_mhz=_least(dies, "clock_mhz"),
            temperature_c=_most(dies, "temperature_c"),
            throttle=reasons,
            loaded=loaded,
            capped=self._capped(dies, reasons),
            other_processes=self._users.beyond_own(_total(dies, "processes")).count,
        )

    def _ask(self, wanted: Iterable[str]) -> tuple[tuple[DieReading, ...], float]:
        """The card's dies with these fields, as far as the tool has them, and how long it took."""
        began = self._clock()
        try:
            listed = self._here.devices(wanted, _CALL_LIMIT_S, self._card.numbers)
            why = self._card.elsewhere(listed)
        except ChipmarkError as error:
            listed, why = (), error.message
        if why:
            listed, text = (), f"{self.name}: {why}"
            if text not in self.remarks:
                self.remarks += (text,)
        places = self._card.places
        dies = tuple(die for die in listed if (die.card, die.die) in places)
        self._last = (self._clock(), dies)
        return dies, self._last[0] - began

    def _capped(self, dies: Sequence[DieReading], reasons: tuple[str, ...] | None) -> bool:
        if reasons is not None:
            return any(map(is_power_cap, reasons))
        limit = self._state.power_limit_w
        watts = _most(dies, "power_w")
        return limit is not None and watts is not None and watts >= _AT_CAP * limit


def tool_source(request: MeterRequest) -> ToolSource | None:
    """What tells the state of the card that `request` is about: the first of its vendor's tools
    that can, None where chipmark reads no tool of that vendor. Raises ChipmarkError where none of
    them is here, can be read, and tells the card from others."""
    failure: ChipmarkError | None = None
    for tool in _tools():
        if tool.vendor != request.vendor:
            continue
        try:
            return _source(tool, request)
        except ChipmarkError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return None


def _source(tool: Tool, request: MeterRequest) -> ToolSource:
    here, readings = find_tool(tool)
    wanted = [field for field in ("pci", "uuid") if getattr(request.key, field)]
    if wanted:
        readings = here.completed(readings, wanted)
    return ToolSource(here, card_that_computes(tool, cards_of(tool, readings), request))


def _tools() -> Iterator[Tool]:
    """Those that are meters here."""
    for name in plugins("chipmark.meters"):
        try:
            found = meter_factory(name)
        except ChipmarkError as error:
            _LOG.info("meter %s cannot be loaded: %s", name, error.message)
            continue
        if isinstance(found, Tool):
            yield found


def _found(dies: Sequence[DieReading]) -> set[str]:
    return {name for name in _MOVING for die in dies if getattr(die, name) is not None}


def _values(dies: Sequence[DieReading], name: str) -> list[float]:
    return [value for die in dies if (value := getattr(die, name)) is not None]


def _least(dies: Sequence[DieReading], name: str) -> float | None:
    return min(_values(dies, name), default=None)


def _most(dies: Sequence[DieReading], name: str) -> float | None:
    return max(_values(dies, name), default=None)


def _total(dies: Sequence[DieReading], name: str) -> int | None:
    """Over all dies; None unless each has it, as a part would look like a change."""
    values = _values(dies, name)
    return int(sum(values)) if values and len(values) == len(dies) else None


def _reasons(dies: Sequence[DieReading]) -> tuple[str, ...] | None:
    told = [die.throttle for die in dies if die.throttle is not None]
    return tuple(sorted({name for names in told for name in names})) if told else None
