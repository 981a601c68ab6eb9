"""Whether a cell has been repeated often enough, from what its repeats say so far."""

from __future__ import annotations

from dataclasses import dataclass

from chipmark.cell.assemble import assemble
from chipmark.cell.measure import MeasuredCell
from chipmark.codes import NoteCode
from chipmark.metrics.derive import Derived, derive
from chipmark.metrics.ranking import default_metric
from chipmark.results.raw import load_raw

WANTED_HALF_WIDTH = 0.10
"""Repeats are added until the interval of the ranked metric is within this share of its value."""

MOST_REPEATS = 30
"""No cell is repeated more often, however wide its interval."""


@dataclass(frozen=True, slots=True)
class Steadiness:
    """The ranked metric of a cell after some repeats. half_width: half of its 95 % interval over
    its value; None where there is no interval (or no value) yet."""

    metric: str
    repeats: int
    half_width: float | None

    @property
    def enough(self) -> bool:
        """More repeats would not make the row easier to rank, or are not to be had."""
        if self.repeats >= MOST_REPEATS:
            return True
        return self.half_width is not None and self.half_width <= WANTED_HALF_WIDTH

    def __str__(self) -> str:
        if self.half_width is None:
            return f"{self.metric} has no interval after {self.repeats} repeats"
        return f"{self.metric} is within ±{self.half_width:.1%} after {self.repeats} repeats"


def steadiness(cell: MeasuredCell) -> Steadiness:
    """Of a cell that is alive, by deriving its metrics from the repeats in its folder.

    Raises what reading a raw folder raises.
    """
    manifest = assemble(cell.outcome(), "", {})
    return of_metrics(derive(load_raw(cell.folder, manifest)), manifest.scenario, cell.repeats_done)


def of_metrics(derived: Derived, scenario: str, repeats: int) -> Steadiness:
    """Of derived metrics."""
    load_bound = any(code == NoteCode.LOAD_BOUND for code, _ in derived.notes)
    name = default_metric(
        scenario,
        load_bound=load_bound,
        has=lambda column: derived.metrics.get(column) is not None,
    )
    value, interval = derived.metrics.get(name), derived.intervals.get(name)
    if not value or interval is None or interval[0] is None or interval[1] is None:
        # A metric that cannot be had will not be had by one repeat more.
        hopeless = value is None and name in derived.null_reasons and repeats > 1
        return Steadiness(name, repeats, 0.0 if hopeless else None)
    return Steadiness(name, repeats, (interval[1] - interval[0]) / 2 / abs(value))
