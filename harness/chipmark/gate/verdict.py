"""The verdict on paired differences, to the letter of the project's definitions.

d_i = ln(B_i / A_i), turned so that above 0 is worse. The order of calls for one benchmark:

    step = look(first_session, margins, scale)             # after 6, 10 and 16 pairs
    step.next                                              # MORE pairs, CONFIRM, or DONE
    verdict = confirm(first_session, second_session, margins, scale)

A regression counts only if a second session of fresh processes confirms it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from numpy.typing import ArrayLike

from chipmark.gate.paired_effect import hodges_lehmann, walsh_interval

LOOKS: tuple[int, ...] = (6, 10, 16)
"""Pairs after which the series is looked at. The first look may only end as EQUIVALENT; what is
undecided at the last is INCONCLUSIVE."""

DELTA_RED = 0.03
"""Default floor of a regression, ln: smaller changes do not fail a gate."""

DELTA_EQ = 0.02
"""Default half-width within which two arms are called equivalent, ln."""


class Verdict(StrEnum):
    """The verdict on one benchmark and metric."""

    REGRESSED = "regressed"
    MISSING = "missing"
    IMPROVED = "improved"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"
    UNFIT = "unfit"


class Next(StrEnum):
    """What a look asks for."""

    DONE = "done"
    MORE = "more"
    CONFIRM = "confirm"


@dataclass(frozen=True, slots=True)
class Margins:
    """delta_red: the user's floor or the machine's A/A bound, whichever is larger, ln. delta_eq:
    the user's, never widened by noise. absolute_floor: change in the metric's own unit that a
    regression must exceed as well (0: none)."""

    delta_red: float = DELTA_RED
    delta_eq: float = DELTA_EQ
    absolute_floor: float = 0.0

    def __post_init__(self) -> None:
        for name in ("delta_red", "delta_eq", "absolute_floor"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value:g}: it must be finite and not negative")

    def widened(self, delta_red: float) -> Margins:
        """With the larger of the two bounds of a regression."""
        return replace(self, delta_red=max(self.delta_red, delta_red))


@dataclass(frozen=True, slots=True)
class Estimate:
    """Hodges-Lehmann effect of n pairs with its 95 % interval, ln; above 0 is worse. of: what
    was counted, since stored runs have samples and no pairs."""

    effect: float
    low: float
    high: float
    n: int
    of: str = "pairs"

    @property
    def percent(self) -> float:
        """The effect as a change of the metric's cost, per cent: 100 (e^effect - 1)."""
        return 100 * math.expm1(self.effect)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with what it stands on. smallest_seen: the smallest effect, ln, for which the
    pairs at hand would have sufficed (None where something was found). confirmed: by the second
    session. reasons: in words, for people."""

    verdict: Verdict
    estimate: Estimate | None
    margins: Margins
    smallest_seen: float | None = None
    confirmed: Estimate | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """What is asked for next; `judgement` is final where that is DONE, else provisional."""

    next: Next
    judgement: Judgement


def estimate(d: ArrayLike) -> Estimate:
    """Effect and interval of a series of pairs. Raises ValueError without a finite pair."""
    low, high = walsh_interval(d)
    return Estimate(hodges_lehmann(d), low, high, len(list(d)))  # type: ignore[arg-type]


def exceeds(found: Estimate, margins: Margins, scale: float, sign: int) -> bool:
    """Whether the effect is beyond the margins in the direction of `sign` (+1 worse, -1 better).

    scale: the baseline's typical value in the metric's unit, for the absolute floor.
    """
    change = abs(scale) * math.expm1(abs(found.effect))
    far = beyond(found.effect, found.low, found.high, margins.delta_red, sign)
    return bool(far) and change >= margins.absolute_floor


def beyond(effect: Any, low: Any, high: Any, delta_red: float, sign: int) -> Any:
    """The statistical half of `exceeds`, for numbers or arrays: the bound that faces 0 is past it,
    and the effect past delta_red."""
    bound = low if sign > 0 else -high
    return (bound > 0) & (sign * effect > delta_red)


def inside(low: Any, high: Any, delta_eq: float) -> Any:
    """Whether the whole interval lies inside the half-width, for numbers or arrays."""
    return (low > -delta_eq) & (high < delta_eq)


def smallest_seen(found: Estimate, margins: Margins) -> float:
    """The smallest effect, ln, that a series as noisy as this one would have shown; infinite
    where there are too few pairs to show any."""
    return max(margins.delta_red, found.effect - found.low, found.high - found.effect)


def look(d: ArrayLike, margins: Margins, scale: float = 1.0) -> Look:
    """What a series in its first session says after as many pairs as it has.

    Raises ValueError without a finite pair. A candidate for REGRESSED or IMPROVED is never final:
    it asks for confirmation.
    """
    found = estimate(d)
    last = found.n >= LOOKS[-1]
    if inside(found.low, found.high, margins.delta_eq):
        return Look(Next.DONE, Judgement(Verdict.EQUIVALENT, found, margins))
    undecided = inconclusive(found, margins)
    if found.n > LOOKS[0]:
        for sign in (1, -1):
            if exceeds(found, margins, scale, sign):
                return Look(Next.CONFIRM, undecided)
    return Look(Next.DONE if last else Next.MORE, undecided)


def confirm(first: ArrayLike, second: ArrayLike, margins: Margins, scale: float = 1.0) -> Judgement:
    """The verdict on a candidate, once a second session of fresh processes has been measured."""
    found, again = estimate(first), estimate(second)
    for sign, verdict in ((1, Verdict.REGRESSED), (-1, Verdict.IMPROVED)):
        if not exceeds(found, margins, scale, sign):
            continue
        if exceeds(again, margins, scale, sign):
            return Judgement(verdict, found, margins, confirmed=again)
        reason = f"the second session did not confirm it: {describe(again)}"
        return replace(inconclusive(found, margins, reason), confirmed=again)
    return inconclusive(found, margins)


def unfit(
    reasons: Sequence[str], margins: Margins, d: ArrayLike | Estimate | None = None
) -> Judgement:
    """No verdict: the machine was not fit to give one. d: what was seen all the same."""
    found = d if d is None or isinstance(d, Estimate) else estimate(d)
    return Judgement(Verdict.UNFIT, found, margins, reasons=tuple(reasons))


def missing(reasons: Sequence[str], margins: Margins) -> Judgement:
    """The baseline has it, and the change has lost it: nothing to compare, and no green."""
    return Judgement(Verdict.MISSING, None, margins, reasons=tuple(reasons))


def describe(found: Estimate) -> str:
    """An estimate in words: `+5.1 % (+3.9 to +6.2 %, 16 pairs)`; above 0 is worse."""
    bounds = [f"{100 * math.expm1(b):+.1f}" for b in (found.low, found.high) if math.isfinite(b)]
    interval = f"{bounds[0]} to {bounds[1]} %" if len(bounds) == 2 else "no interval"
    return f"{found.percent:+.1f} % ({interval}, {found.n} {found.of})"


def inconclusive(found: Estimate, margins: Margins, *reasons: str) -> Judgement:
    """Undecided, with the smallest effect that could have been seen. reasons: what else is to be
    known of it."""
    seen = smallest_seen(found, margins)
    least = 4 if found.of != "pairs" else LOOKS[0]
    reason = (
        f"too few {found.of} for an interval: {found.n}, and {least} are the least"
        if math.isinf(seen)
        else f"an effect of {100 * math.expm1(seen):.1f} % or more would have been seen"
    )
    return Judgement(Verdict.INCONCLUSIVE, found, margins, seen, reasons=(*reasons, reason))
