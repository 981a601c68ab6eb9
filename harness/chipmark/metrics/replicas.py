"""Replicas of the engine on the devices of one unit: their views in one W, and their ratios as one.

Every replica runs the trace of its own, at its share of the sessions, all of them from one moment
on. The row is the unit's, so W runs from the first intended send of any replica to the last token
of any: a device that waits for the others at the end costs time and joules.
"""

from __future__ import annotations

from collections.abc import Sequence

from chipmark.metrics.events import RepeatView, view
from chipmark.metrics.phases import Work
from chipmark.metrics.ratios import Ratio, null
from chipmark.metrics.rawcell import RepeatData

RATES = (
    "prefill_tok_s", "decode_tok_s", "total_tok_s", "goodput_turns_s", "goodput_tok_s",
    "sessions_per_hour",
)  # fmt: skip
"""What the devices of a unit do beside each other: the unit's is the sum of the replicas'. All
other ratios are means (of a launch, a step, a turn, a device second) and pool their sums."""


def own_views(data: RepeatData) -> tuple[RepeatView, ...]:
    """Each replica's part of a repeat in the W that its own engine gave it."""
    return tuple(view(run.events) for run in data.runs)


def unit_views(data: RepeatData, own: Sequence[RepeatView]) -> tuple[RepeatView, ...]:
    """The same in the unit's W."""
    if len(own) == 1:
        return tuple(own)
    within = min(v.start_s for v in own), max(v.end_s for v in own)
    return tuple(view(run.events, within) for run in data.runs)


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


def total(parts: Sequence[Work]) -> Work:
    """Work tokens of all replicas."""
    return Work(
        n_new=sum(part.n_new for part in parts),
        n_out=sum(part.n_out for part in parts),
        n_new_pure=sum(part.n_new_pure for part in parts),
        n_decoded=sum(part.n_decoded for part in parts),
        n_decoded_pure=sum(part.n_decoded_pure for part in parts),
    )
