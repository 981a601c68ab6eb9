"""What a gate or an A/B run came to: one row a benchmark and metric, and the exit code."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from chipmark.gate.verdict import Estimate, Judgement, Verdict, describe

REGRESSED, UNDECIDED = 1, 3
"""Exit codes: a gated benchmark regressed or is missing; neither, and something was not decided."""


@dataclass(frozen=True, slots=True)
class GateRow:
    """One benchmark and metric. base, new: typical values of both sides in `unit`. not_gated: why
    the verdict does not count ("" where it does)."""

    benchmark: str
    metric: str
    unit: str
    direction: Literal["lower", "higher"]
    base: float | None
    new: float | None
    judgement: Judgement
    not_gated: str = ""

    @property
    def name(self) -> str:
        """Benchmark and metric for people."""
        return f"{self.benchmark} ({self.metric})"

    @property
    def verdict(self) -> Verdict:
        """The verdict of its judgement."""
        return self.judgement.verdict

    @property
    def fails(self) -> bool:
        """Whether it makes the gate red."""
        return not self.not_gated and self.verdict in (Verdict.REGRESSED, Verdict.MISSING)

    def sentence(self, said: Collection[str] = ()) -> str:
        """The verdict in words: `+5.1 % (+3.9 to +6.2 %, 16 pairs); ...`; above 0 is worse.

        said: reasons that the reader has seen already.
        """
        found = self.judgement.estimate
        parts = [describe(found)] if found is not None else []
        if self.judgement.confirmed is not None and self.verdict is not Verdict.INCONCLUSIVE:
            parts.append(f"confirmed by {describe(self.judgement.confirmed)}")
        parts += [reason for reason in self.judgement.reasons if reason not in said]
        if self.not_gated:
            parts.append(f"not gated: {self.not_gated}")
        return "; ".join(parts) or "; ".join(self.judgement.reasons)

    def to_dict(self) -> dict[str, Any]:
        """JSON types; infinite bounds are null."""
        judged = self.judgement
        return {
            "benchmark": self.benchmark,
            "metric": self.metric,
            "unit": self.unit,
            "direction": self.direction,
            "base": self.base,
            "new": self.new,
            "verdict": judged.verdict.value,
            "gated": not self.not_gated,
            "not_gated": self.not_gated or None,
            "estimate": _estimate(judged.estimate),
            "confirmed": _estimate(judged.confirmed),
            "delta_red": judged.margins.delta_red,
            "delta_eq": judged.margins.delta_eq,
            "absolute_floor": judged.margins.absolute_floor,
            "smallest_seen": finite(judged.smallest_seen),
            "reasons": list(judged.reasons),
        }


@dataclass(frozen=True, slots=True)
class GateFindings:
    """All rows of a comparison. base, new: what was compared, for people. notes: what holds for
    all rows. details: what else a reader of the JSON may want, JSON types."""

    base: str
    new: str
    rows: tuple[GateRow, ...]
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] | None = None

    @property
    def exit_code(self) -> int:
        """1 where a gated row regressed or is missing, 3 where one is undecided or unfit or none
        is there."""
        gated = {row.verdict for row in self.rows if not row.not_gated}
        if gated & {Verdict.REGRESSED, Verdict.MISSING}:
            return REGRESSED
        if not gated or gated & {Verdict.INCONCLUSIVE, Verdict.UNFIT}:
            return UNDECIDED
        return 0

    def headline(self) -> str:
        """`1 regressed, 3 equivalent of 4`."""
        counts = Counter(row.verdict for row in self.rows)
        parts = [f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict]]
        return f"{', '.join(parts) or 'nothing to judge'} of {len(self.rows)}"

    def to_dict(self) -> dict[str, Any]:
        """The document of `--format json`."""
        return {
            "schema": "chipmark.gate/1",
            "base": self.base,
            "new": self.new,
            "exit_code": self.exit_code,
            "headline": self.headline(),
            "rows": [row.to_dict() for row in self.rows],
            "notes": list(self.notes),
            "details": dict(self.details or {}),
        }


def _estimate(found: Estimate | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "effect": found.effect,
        "low": finite(found.low),
        "high": finite(found.high),
        "n": found.n,
        "of": found.of,
    }


def finite(value: float | None) -> float | None:
    """The value for JSON: None where it is infinite or none."""
    return value if value is not None and math.isfinite(value) else None
