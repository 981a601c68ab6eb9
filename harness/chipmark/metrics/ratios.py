"""Ratios with a reason when they are null, and how repeats combine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chipmark.codes import NullReason


@dataclass(frozen=True, slots=True)
class Ratio:
    """numerator / denominator."""

    numerator: float | None
    denominator: float | None
    reason: NullReason | None = None
    """Why there is no number, where a part of it is not even defined."""

    @property
    def value(self) -> float | None:
        """The quotient; None where a part is missing or the denominator is not positive."""
        if self.reason is not None or self.numerator is None or self.denominator is None:
            return None
        return self.numerator / self.denominator if self.denominator > 0 else None

    @property
    def null_reason(self) -> NullReason:
        """Why `value` is None. ValueError where it is a number."""
        if self.value is not None:
            raise ValueError(f"{self} is a number")
        if self.reason is not None:
            return self.reason
        missing = self.numerator is None or self.denominator is None
        return NullReason.NO_SAMPLES if missing else NullReason.ZERO_DENOMINATOR


def null(reason: NullReason) -> Ratio:
    """A ratio that is null because of `reason`."""
    return Ratio(None, None, reason)


def combine(ratios: Sequence[Ratio], *, every: bool = False) -> Ratio:
    """Repeats as a ratio of sums, over the repeats that have a value.

    Null, with the first reason met, where less than half of the repeats have one, or, with
    `every`, where a single one lacks it.
    """
    if not ratios:
        return null(NullReason.NO_SAMPLES)
    valid = [r for r in ratios if r.value is not None]
    lacking = [r for r in ratios if r.value is None]
    if lacking and (every or 2 * len(valid) < len(ratios) or not valid):
        return null(lacking[0].null_reason)
    return Ratio(
        sum(r.numerator for r in valid if r.numerator is not None),
        sum(r.denominator for r in valid if r.denominator is not None),
    )
