"""A card's watts by its vendor's tool, which is run once a reading."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from chipmark.errors import ChipmarkError, MissingBackendError
from chipmark.log import logger_of
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.meters.poll import Reading, Sampler, Stamped
from chipmark.meters.request import MeterRequest
from chipmark.meters.tools.cards import Card, Holder, Watts, card_of, cards_of, limit_of, watts_of
from chipmark.meters.tools.devices import ToolHere, find_tool
from chipmark.meters.tools.reading import DieReading, Missing, without_suspects

if TYPE_CHECKING:
    from collections.abc import Callable

    from chipmark.meters.tools.tool import Query, Tool

_LOG = logger_of(__name__)

CALL_LIMIT_S = 5.0
"""Of one reading; `stop` waits no longer than this."""

FAILURES = 5
"""Readings in a row without watts after which the tool is asked less often."""

MOST_QUIET_S = 30.0
"""The longest time that a failing tool is left alone."""

_BUSY_SHARE = 0.8  # of its time that a tool may take for one call, before it is asked less often
_SPIKE = 2.0
_LEAST_CALL_S = 0.05
_ALIKE, _ALIKE_W = 1.5, 30.0


@dataclass(frozen=True, slots=True)
class PowerQuery:
    """The query that is polled for a card's watts, and how they follow from its answer."""

    query: Query
    card: Card
    watts: Watts
    cap_w: float | None
    seconds: float
    """How long it took at first."""


class ToolMeter:
    """One card, whose tool is run again and again on a thread between `start` and `stop`.

    Whatever the tool does in between (hang, garbage, another version, 0 W, an exit code) is a gap
    with a remark, never an exception and never a zero.
    """

    def __init__(self, here: ToolHere, power: PowerQuery, limit_s: float = CALL_LIMIT_S) -> None:
        tool = here.tool
        self._here, self._power, self._limit_s = here, power, limit_s
        self._period_s = max(tool.period_s, power.seconds / _BUSY_SHARE)
        self.info = _info(here, power, self._period_s)
        self._sampler = Sampler(self._read, self._period_s, jitter=True)
        self._remarks: Counter[str] = Counter()
        self._asked = self._failed = 0
        self._quiet_until_s, self._stop_by_s = -math.inf, math.inf

    @property
    def reader(self) -> Callable[[str], tuple[DieReading, ...]]:
        """The function that reads the tool: its module is the plug-in that a record names, since
        this class is every tool's."""
        return self._here.tool.overview.parse

    def start(self) -> None:
        """Begin sampling."""
        self._remarks.clear()
        self._asked = self._failed = 0
        self._quiet_until_s, self._stop_by_s = -math.inf, math.inf
        self._sampler.start()

    def stop(self) -> PowerSamples:
        """End sampling, after one call's limit at most; watts and no counter."""
        self._stop_by_s = time.perf_counter() + self._limit_s
        samples = self._sampler.stop()
        gaps = [
            f"{text} ({count} of {self._asked} readings)" for text, count in self._remarks.items()
        ]
        remarks = (*gaps, *samples.remarks, *_spikes(samples.power_w))
        return replace(samples, remarks=remarks)

    def _read(self) -> Reading | list[Stamped]:
        """One reading, by the sampler's thread; nothing for a gap, whose reason is kept here."""
        now = time.perf_counter()
        limit_s = min(self._limit_s, self._stop_by_s - now)
        if now < self._quiet_until_s or limit_s < _LEAST_CALL_S:
            return []
        watts, why = self._watts(limit_s)
        if watts is None and limit_s < self._limit_s and time.perf_counter() >= now + limit_s:
            return []  # at the end it is not given its whole time, and is not blamed for that
        self._asked += 1
        if watts is not None:
            self._failed = 0
            return math.nan, watts
        self._remarks[why] += 1
        self._failed += 1
        if self._failed >= FAILURES:
            quiet = min(MOST_QUIET_S, self._period_s * 2.0 ** min(self._failed - FAILURES + 1, 10))
            self._quiet_until_s = time.perf_counter() + quiet
        return []

    def _watts(self, limit_s: float) -> tuple[float | None, str]:
        power = self._power
        numbers = power.card.numbers
        each = limit_s / len(numbers) if power.query.per_card else limit_s
        asked = self._here.ask(power.query, numbers, each)
        if asked.problem:
            return None, asked.problem
        if other := power.card.elsewhere(asked.readings):
            return None, other
        readings = [without_suspects(r, power.cap_w) for r in asked.readings]
        watts = power.watts.of(readings, power.card)
        if watts is not None:
            return watts, ""
        return None, _why(readings, power)


def meter_of(tool: Tool, request: MeterRequest) -> ToolMeter | None:
    """The meter of the card that computes; see `Tool.for_request`."""
    if request.metered != "unit" or request.vendor != tool.vendor or request.unit != "card":
        return None
    try:
        here, readings = find_tool(tool)
    except MissingBackendError:
        if request.choice(tool.name) is not None:
            raise  # the user named it
        return None
    wanted = [name for name in ("pci", "uuid") if getattr(request.key, name)]
    if wanted:
        readings = here.completed(readings, wanted)
    card = card_of(tool, cards_of(tool, readings), request)
    return ToolMeter(here, power_query(here, readings, card))


def power_query(here: ToolHere, overview: tuple[DieReading, ...], card: Card) -> PowerQuery:
    """The first of the tool's queries (`Tool.polled`) whose answer has the card's watts.

    Raises ChipmarkError with the reason where none has.
    """
    tool = here.tool
    reasons: list[str] = []
    limits = {(r.card, r.die): r.cap_w for r in overview}
    shown = watts_of(tool, overview, card)
    shown_w = math.nan if shown is None else shown.of(overview, card) or math.nan
    for query in tool.polled:
        asked = here.ask(query, card.numbers)
        if asked.problem:
            reasons.append(asked.problem)
            continue
        if other := card.elsewhere(asked.readings):
            reasons.append(other)
            continue
        limits |= {(r.card, r.die): r.cap_w for r in asked.readings if r.cap_w is not None}
        cap = max((c for p in card.places if (c := limits.get(p)) is not None), default=None)
        readings = [without_suspects(reading, cap) for reading in asked.readings]
        watts = watts_of(tool, readings, card)
        now_w = None if watts is None else watts.of(readings, card)
        if watts is not None and now_w is not None:
            by_name = query is tool.overview or math.isnan(shown_w)
            if not by_name and not _alike(now_w, shown_w):
                # Read by position or from another version: the overview names its columns.
                reasons.append(f"{now_w:g} W by {' '.join(query.arguments)}, {shown_w:g} W before")
                continue
            _LOG.info("%s %s: %s", here.program, " ".join(query.arguments), watts.text)
            cap = limit_of(watts, [limits.get(place) for place in card.places])
            return PowerQuery(query, card, watts, cap, asked.seconds)
        reasons += [r.missing["power_w"] for r in readings if "power_w" in r.missing]
    raise ChipmarkError(
        f"{tool.name} gives no watts of {card.text}: {'; '.join(dict.fromkeys(reasons))}",
        "some tools give power to root only; else declare the card's power with --power-w",
    )


def _alike(one_w: float, other_w: float) -> bool:
    """Whether two readings of one card in the same seconds may both be its watts."""
    low, high = sorted((one_w, other_w))
    return high <= _ALIKE * low or high - low <= _ALIKE_W


def _info(here: ToolHere, power: PowerQuery, period_s: float) -> MeterInfo:
    tool = here.tool
    first = power.query.arguments_for(power.card.numbers[0])
    command = " ".join((Path(here.program).name, *first))
    notes = (
        []
        if tool.verified
        else [
            f"unverified on hardware: {tool.name} is read by its documents, tested on made answers"
        ]
    )
    notes += tool.notes
    notes.append(
        f"a reading's time is the middle of a call of the tool, which took {power.seconds:.2g} s"
    )
    if power.watts.holder is not Holder.OWN:
        notes.append(power.watts.text)
    return MeterInfo(
        name=tool.name,
        source="polled",
        scope=tool.scope,
        method=f"`{command}`, asked every {period_s:.3g} s; {power.watts.text}",
        update_period_s=tool.period_s,
        averaging_s=_averaging_s(tool, power),
        error_rel=tool.error_rel,
        covers=f"one card of {len(power.card.dies)} dies: {power.card.text}"
        if len(power.card.dies) > 1
        else f"one card: {power.card.text}",
        verified=tool.verified,
        notes=tuple(notes),
        period_known=False,
        reading_period_s=period_s,
        cap_w=power.cap_w,
        resolution_w=tool.resolution_w,
        jittered=True,
    )


def _averaging_s(tool: Tool, power: PowerQuery) -> float | None:
    of = power.query.averaging_s
    return tool.averaging_s if of is None else of(power.card.dies[0].name)


def _why(readings: list[DieReading], power: PowerQuery) -> str:
    """Why an answer has no watts of the card."""
    own = [r for r in readings if (r.card, r.die) in power.watts.places]
    if not own:
        return f"{power.card.text} is not in its answer"
    missing = [r.missing["power_w"] for r in own if r.power_w is None]
    if missing:
        return Missing(missing[0]).value
    return "other dies than at first have watts"


def _spikes(power_w: NDArray[np.float64]) -> list[str]:
    """A remark on readings over twice both of their neighbours, which are kept."""
    if len(power_w) < 3:
        return []
    around = np.maximum(power_w[:-2], power_w[2:])
    found = power_w[1:-1][power_w[1:-1] > _SPIKE * around]
    if not len(found):
        return []
    return [
        f"{len(found)} of {len(power_w)} readings are over twice both of their neighbours "
        f"(up to {found.max():.4g} W); they are counted as they were read"
    ]
