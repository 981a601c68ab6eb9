"""Replicas of the engine on the devices of one unit: their views in one W, and their ratios as one.

Every replica runs the whole trace at its share of the sessions, all of them from one moment on.
The row is the unit's. In `equal_n` W runs from the first intended send of any replica to the last
token of any: a device that waits for the others at the end costs time and joules. In `capacity`
each engine finds the W in which it is in its steady state; joules are those of the time that all
have in common, for the work that each did then at its own rate.
"""

from __future__ import annotations

from collections.abc import Sequence

from chipmark.metrics.events import RepeatView, view
from chipmark.metrics.phases import Work
from chipmark.metrics.ratios import Ratio, null
from chipmark.metrics.rawcell import RepeatData, Scenario

RATES = (
    "prefill_tok_s", "decode_tok_s", "total_tok_s", "goodput_turns_s", "goodput_tok_s",
    "sessions_per_hour",
)  # fmt: skip
"""What the devices of a unit do next to each other: the unit's is the sum of the replicas'. All
other ratios are means (of a launch, a step, a turn, a device second) and pool their sums."""


LEAST_COMMON = 0.9
"""Share of the longest W of a replica that all must have in common, in the capacity scenario, for
the joules of the unit: beyond it a device that has ended would stand still in most of another's."""


def own_views(data: RepeatData) -> tuple[RepeatView, ...]:
    """Each replica's part of a repeat in the W that its own engine gave it."""
    return tuple(view(run.events) for run in data.runs)


def common_window(own: Sequence[RepeatView], scenario: Scenario) -> tuple[float, float]:
    """Start and end of the unit's W, in which its joules are measured: of `equal_n` all that any
    replica has, of `capacity` what all have (empty, or negative, where that is nothing)."""
    starts, ends = [v.start_s for v in own], [v.end_s for v in own]
    if scenario == "equal_n":
        return min(starts), max(ends)
    return max(starts), min(ends)


def unit_views(
    data: RepeatData, own: Sequence[RepeatView], scenario: Scenario
) -> tuple[RepeatView, ...]:
    """The views that rates are taken of: in `equal_n` all in the unit's W."""
    if len(own) == 1 or scenario == "capacity":
        return tuple(own)
    within = common_window(own, scenario)
    return tuple(view(run.events, within) for run in data.runs)


def shares(views: Sequence[RepeatView], window_s: float) -> tuple[float, ...]:
    """Which part of what each replica did in its W belongs to the `window_s` of the meter: 1 where
    that is its W. () where they have less than LEAST_COMMON of the longest W in common."""
    if window_s < LEAST_COMMON * max(v.window_s for v in views):
        return ()
    return tuple(window_s / v.window_s if v.window_s > 0 else 1.0 for v in views)


def of_unit(name: str, ratios: Sequence[Ratio]) -> Ratio:
    """A ratio of the unit out of those of its replicas; null, with the first reason met, where a
    single one is. The denominator of a rate is the mean of theirs, so that repeats still combine
    as ratios of sums."""
    if len(ratios) == 1:
        return ratios[0]
    if lacking := [ratio for ratio in ratios if ratio.value is None]:
        return null(lacking[0].null_reason)
    below = sum(ratio.denominator or 0.0 for ratio in ratios)
    if name in RATES:
        rate = sum(ratio.value or 0.0 for ratio in ratios)
        return Ratio(rate * below / len(ratios), below / len(ratios))
    return Ratio(sum(ratio.numerator or 0.0 for ratio in ratios), below)


def total(parts: Sequence[Work], shares: Sequence[float] | None = None) -> Work:
    """Work tokens of all replicas, or of these shares of theirs, in whole tokens."""
    shares = [1.0] * len(parts) if shares is None else shares or [0.0] * len(parts)

    def summed(values: Sequence[float]) -> float:
        return sum(value * share for value, share in zip(values, shares, strict=True))

    return Work(
        n_new=round(summed([part.n_new for part in parts])),
        n_out=round(summed([part.n_out for part in parts])),
        n_new_pure=summed([part.n_new_pure for part in parts]),
        n_decoded=summed([part.n_decoded for part in parts]),
        n_decoded_pure=summed([part.n_decoded_pure for part in parts]),
    )
