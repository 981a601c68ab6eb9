"""Whether the measured repeats meet the objective: an exact one-sided bound of the share of turns.

Clopper and Pearson's lower bound: with x of n independent turns inside the SLO, the share p for
which x or more would be seen with probability 0.05 is the x-th of n quantile of Beta(x, n - x + 1).
Turns are not independent. So n counts distinct turns (session and turn of the trace): repeats and
passes run the same ones again. And n is divided by the design effect of sessions, the variance of
the share between sessions (as clusters, by linearisation; Kish 1965, chapter 5) over what
independent turns would have. Where all of n turns meet, the bound is 0.05^(1/n): 59 turns for
95 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chipmark.codes import NoteCode
from chipmark.metrics.distributions import beta
from chipmark.metrics.events import Ints, RepeatView
from chipmark.metrics.intervals import CONFIDENCE, P95_MIN_SAMPLES
from chipmark.metrics.latency import judged_turns
from chipmark.metrics.rawcell import Scenario, SloLimits
from chipmark.workload.passes import trace_ids
from chipmark.workload.trace import Trace


@dataclass(frozen=True, slots=True)
class Attainment:
    """The share of turns inside the SLO over all repeats, and what can be claimed of it."""

    value: float | None
    """The pooled share; None without turns."""
    lower: float | None
    """Its one-sided 95 % bound."""
    turns: int
    """Distinct ones."""
    effective: float
    """How many independent turns they are worth."""

    def meets(self, share: float) -> bool:
        """Whether the share is met beyond doubt: the lower bound is not below it."""
        return self.lower is not None and self.lower >= share

    def seems_to_meet(self, share: float) -> bool:
        """The same for a sweep, which must also end where there are too few turns for any bound
        (under 59): there the share itself decides, and the repeats remain a claim that fails."""
        if self.turns < P95_MIN_SAMPLES:
            return self.value is not None and self.value >= share
        return self.meets(share)


def attainment(
    views: Sequence[RepeatView], slo: SloLimits, scenario: Scenario, trace: Trace
) -> Attainment:
    """The attainment of all repeats together."""
    met: list[Ints] = []
    sessions: list[Ints] = []
    turns: list[Ints] = []
    for view in views:
        judged = judged_turns(view, slo, scenario)
        table = view.tables["turns"]
        met.append(judged.met[judged.counted].astype(np.int64))
        sessions.append(trace_ids(trace, table["session"][judged.counted]))
        turns.append(table["turn"][judged.counted].astype(np.int64))
    if not sum(len(part) for part in met):
        return Attainment(None, None, 0, 0.0)
    inside, who = np.concatenate(met), np.concatenate(sessions)
    distinct = len(np.unique(np.stack((who, np.concatenate(turns))), axis=1).T)
    value = float(inside.mean())
    effective = distinct / _design_effect(inside, who, distinct)
    return Attainment(value, lower_bound(value, effective), distinct, effective)


def slo_bound(found: Attainment) -> dict[str, float | int | None]:
    """What can be claimed of a cell's slo_attainment, as JSON: its exact one-sided 95 % bound, over
    how many distinct turns, and what those are worth as independent ones."""
    return {"lower": found.lower, "turns": found.turns, "effective_turns": found.effective}


def slo_notes(found: Attainment, share: float) -> list[tuple[NoteCode, str]]:
    """The note `slo_not_met` of a cell in the capacity scenario whose repeats do not meet its
    objective (`share` of the turns), and why; empty where they do."""
    if found.meets(share):
        return []
    if found.value is None or found.lower is None:
        return [(NoteCode.SLO_NOT_MET, "no turn was measured")]
    text = (
        f"{found.value:.1%} of {found.turns} turns are inside the SLO, at least {found.lower:.1%} "
        f"with 95 % confidence; {share:.0%} are asked for"
    )
    if found.turns < P95_MIN_SAMPLES and found.value >= share:
        text += f". More sessions: {P95_MIN_SAMPLES} turns are the fewest that can show it"
    return [(NoteCode.SLO_NOT_MET, text)]


def lower_bound(share: float, n: float) -> float:
    """One-sided lower bound of a share that was seen among `n` independent turns; n need not be
    whole. 0 where none was inside."""
    if share <= 0 or n <= 0:
        return 0.0
    inside = share * n
    return beta(inside, n - inside + 1, 1 - CONFIDENCE)


def _design_effect(inside: Ints, who: Ints, distinct: int) -> float:
    """At least 1; `distinct`, so that all turns count as one, where a single session has both
    hits and misses."""
    share = float(inside.mean())
    if share in (0.0, 1.0):
        return 1.0
    _, index = np.unique(who, return_inverse=True)
    n = np.bincount(index).astype(np.float64)
    clusters = len(n)
    if clusters == 1:
        return float(distinct)
    residual = np.bincount(index, weights=inside) - share * n
    variance = clusters / (clusters - 1) * float((residual**2).sum()) / float(n.sum()) ** 2
    return max(1.0, variance * distinct / (share * (1 - share)))
