"""The distributions a profile is made of: mixtures of lognormals, in integers."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from chipmark.workload.draws import DrawStream
from chipmark.workload.quantile_tables import lognormal


@dataclass(frozen=True, slots=True)
class LognormalPart:
    """One lognormal of a mixture: integer weight, median in base units, sigma of the logarithm."""

    weight: int
    median: int
    sigma_ln: Fraction


@dataclass(frozen=True)
class Distribution:
    """A mixture of lognormals clipped to `minimum..maximum`, in integer base units.

    The base unit is a token, a turn, or a microsecond for times. `source` says where the
    parameters come from.
    """

    parts: tuple[LognormalPart, ...]
    minimum: int
    maximum: int | None
    source: str

    def draw(self, stream: DrawStream) -> int:
        """The next value of a stream; always two words, so that streams stay aligned."""
        choice, rank = stream.below(self._weight), stream.rank()
        for part in self.parts:
            if choice < part.weight:
                return self._clipped(lognormal(part.median, part.sigma_ln)[rank])
            choice -= part.weight
        raise AssertionError("a choice below the sum of weights always finds its part")

    def quantile(self, p: Fraction) -> int:
        """The value that a share `p` of the clipped distribution does not exceed."""
        wanted, seen = p * self._weight * 4096, 0
        for value, weight in self._ladder:
            seen += weight
            if seen >= wanted:
                return value
        return self._ladder[-1][0]

    @property
    def _weight(self) -> int:
        return sum(part.weight for part in self.parts)

    @cached_property
    def _ladder(self) -> tuple[tuple[int, int], ...]:
        return tuple(
            sorted(
                (self._clipped(value), part.weight)
                for part in self.parts
                for value in lognormal(part.median, part.sigma_ln)
            )
        )

    def _clipped(self, value: int) -> int:
        value = max(self.minimum, value)
        return value if self.maximum is None else min(self.maximum, value)
