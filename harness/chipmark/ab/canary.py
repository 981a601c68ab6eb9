"""The canary: fixed work in a fresh process around every slot, and what it says of the machine.

Its rule has to let pass what the design cancels, and to stop what it does not:

- A slow drift moves both slots of a round alike, and ABBA cancels it. So the spread is taken from
  successive readings (the sd of a reading without its trend), not over all.
- A few slots that something else fell into are single pairs far out, and the interval of 16 pairs
  stands two of them. So the spread is that of the upper quartile of the changes, which a quarter of
  them cannot move; a root of mean squares would give up a whole run for one bad slot.
- Short noise that hits slots at random widens the intervals, which is what INCONCLUSIVE is for.
  From `NOTICE` (2 %, a quiet machine) on it is reported; above the limit (default 10 %) an interval
  of 16 rounds is wider than any usual margin, and the run is UNFIT.
- A canary that differs between the arms means that the machine moved with them, and no statistic
  over the arms can see that: UNFIT where its paired effect is beyond the margin and its interval
  excludes zero.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from chipmark.ab.process import ArmFailedError, run_process

NOTICE = 0.02
LIMIT = 0.10
_LIMIT_S = 60.0
_QUARTILE = 1.626787
"""Upper quartile of |x - y| of two normal variables of sd 1: sqrt(2) x 1.150349."""
_WORK = Path(__file__).with_name("canary_work.py")


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """noise: relative sd of a reading, trend removed, by the upper quartile of the changes from
    slot to slot; cv: plain relative sd, trend included. drift: ln(last third / first third) of the
    medians. faults: why the machine is unfit; notices. disturbed: share of changes over the limit.
    """

    readings: int
    median_s: float
    noise: float
    cv: float
    drift: float
    faults: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    disturbed: float = 0.0

    @property
    def fit(self) -> bool:
        """Whether a verdict may be given."""
        return not self.faults


def run_canary(environ: dict[str, str]) -> float:
    """Seconds of one canary (median of its passes) in a fresh isolated process of our Python."""
    argv = [sys.executable, "-I", str(_WORK)]
    done = run_process(argv, _WORK.parent, environ, _LIMIT_S, "the canary")
    if done.code:
        raise ArmFailedError(f"the canary ended with exit code {done.code}:\n{done.log[-500:]}")
    return float(median(json.loads(done.log)["seconds"]))


def judge_canary(
    sessions: Sequence[Sequence[float]],
    effect: tuple[float, float, float] | None,
    margin: float,
    limit: float = LIMIT,
) -> CanaryReport:
    """What the readings say. sessions: seconds in the order taken, a list a session (between
    sessions there is a pause, so that no difference is taken over it). effect: Hodges-Lehmann and
    95 % bounds of the canary's own B/A as ln, None where it cannot be had yet. margin: δ_eq."""
    logs = [[math.log(x) for x in session] for session in sessions if session]
    steps = [b - a for session in logs for a, b in pairwise(session)]
    flat = [x for session in logs for x in session]
    noise = _spread(steps)
    disturbed = sum(abs(step) > limit for step in steps) / max(1, len(steps))
    mean = sum(flat) / len(flat)
    cv = math.sqrt(sum((x - mean) ** 2 for x in flat) / max(1, len(flat) - 1))
    third = max(1, len(flat) // 3)
    drift = median(flat[-third:]) - median(flat[:third])
    faults, notices = [], []
    if noise > limit:
        faults.append(
            f"the canary's time jumps by {noise:.1%} from slot to slot (limit {limit:.0%}): "
            "something else runs here"
        )
    elif noise > NOTICE:
        notices.append(
            f"the canary's time jumps by {noise:.1%} from slot to slot; a quiet machine has "
            f"{NOTICE:.0%}: intervals are wide, not wrong"
        )
    if disturbed:
        notices.append(
            f"{disturbed:.0%} of the canary's changes from slot to slot are over {limit:.0%}: "
            "something else ran for a while"
        )
    if abs(drift) > limit:
        notices.append(f"the canary drifted by {math.expm1(drift):+.1%}; the order cancels that")
    if effect is not None:
        centre, low, high = effect
        if abs(centre) > margin and (low > 0 or high < 0):
            faults.append(
                f"the canary, which neither arm built, differs by {math.expm1(centre):+.1%} "
                f"between the arms [{math.expm1(low):+.1%}, {math.expm1(high):+.1%}]"
            )
    return CanaryReport(
        readings=len(flat),
        median_s=median(x for session in sessions for x in session),
        noise=noise,
        cv=cv,
        drift=drift,
        disturbed=disturbed,
        faults=tuple(faults),
        notices=tuple(notices),
    )


def _spread(steps: Sequence[float]) -> float:
    if not steps:
        return 0.0
    ordered = sorted(abs(step) for step in steps)
    return ordered[math.ceil(0.75 * len(ordered)) - 1] / _QUARTILE
