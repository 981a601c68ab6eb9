"""What a trace turned out to be, and what its profile asks for."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from chipmark.errors import UsageError
from chipmark.workload.distribution import Distribution
from chipmark.workload.profile import MICROSECONDS, PARAMETERS, Profile
from chipmark.workload.scale import scaled_tokens
from chipmark.workload.trace import Trace

_RANKS = (Fraction(1, 10), Fraction(1, 2), Fraction(9, 10))
_UNITS = {"turns": "turns", "tool_time_s": "s"}


@dataclass(frozen=True, slots=True)
class QuantileRow:
    """One parameter of a trace: targets at the trace's scale and what was realised.

    `unit` is tokens, turns, s or 1 (a ratio). `n` is the number of values behind the realised
    quantiles. A target that no source gives is None; a single figure, such as a hit, is in
    `p50`. `source` is where the target comes from.
    """

    parameter: str
    unit: str
    n: int
    target_p10: float | None
    target_p50: float | None
    target_p90: float | None
    realised_p10: float | None
    realised_p50: float | None
    realised_p90: float | None
    source: str

    @property
    def deviation(self) -> float | None:
        """Realised over target at the median, minus 1; None without a target other than 0."""
        if self.target_p50 is None or self.realised_p50 is None or self.target_p50 == 0:
            return None
        return self.realised_p50 / self.target_p50 - 1.0


def describe(trace: Trace, profile: Profile | None = None) -> list[QuantileRow]:
    """Rows for first prompt, turns, append, output, tool time, prompt, arrival gap and hits.

    Realised quantiles are taken after the context cap, which ends sessions early and refuses
    what no longer fits, so they lie under those of the distributions where the cap binds.
    Without a profile (a transcript, a replayed file) there are no targets. Raises `UsageError`
    for the profile of another trace.
    """
    if profile is not None and profile.name != trace.name:
        raise UsageError(f"a trace of {trace.name!r} is not described by profile {profile.name!r}")
    values = _realised(trace)
    rows = []
    for name in PARAMETERS:
        targets, source = _targets(trace, profile, name)
        if values[name] or source:
            rows.append(_row(name, _UNITS.get(name, "tokens"), values[name], targets, source))
    rows.append(_row("prompt", "tokens", values["prompt"], (None, None, None), ""))
    if trace.loop == "open":
        mean_s = None
        if profile is not None and profile.arrivals is not None:
            gap_us = Fraction(profile.arrivals.mean_gap_us)
            mean_s = float(gap_us * trace.scale.tool_time_factor / MICROSECONDS)
        gaps = values["arrival_gap_s"]
        source = profile.arrivals.source if profile and profile.arrivals else ""
        mean = sum(gaps) / len(gaps) if gaps else None
        rows.append(_single("mean_arrival_gap_s", "s", len(gaps), mean_s, mean, source))
    return rows + _hits(trace, profile)


def _hits(trace: Trace, profile: Profile | None) -> list[QuantileRow]:
    totals = trace.totals
    within = sum(turn.n_cached for _, turn in trace.walk() if turn.index)
    own = within / totals.prompt_tokens if totals.prompt_tokens else None
    target = profile.target_hit if profile else None
    rows = []
    for name, scope, realised in (
        ("prefix_hit_within_session", "session", own),
        ("prefix_hit_ideal", "trace", trace.prefix_hit_ideal),
    ):
        wanted = target if target and target.scope == scope else None
        rows.append(
            _single(
                name,
                "1",
                totals.turns,
                float(wanted.value) if wanted else None,
                realised,
                wanted.source if wanted else "",
            )
        )
    return rows


def _realised(trace: Trace) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {
        "first_prompt": [float(s.turns[0].prompt_tokens) for s in trace.sessions],
        "turns": [float(len(s.turns)) for s in trace.sessions],
        "append": [float(t.own_tokens) for _, t in trace.walk() if t.index],
        "output": [float(t.n_out) for _, t in trace.walk()],
        "tool_time_s": [t.tool_time_s for s in trace.sessions for t in s.turns[:-1]],
        "prompt": [float(t.prompt_tokens) for _, t in trace.walk()],
    }
    arrivals = sorted(s.arrival_s for s in trace.sessions if s.arrival_s is not None)
    values["arrival_gap_s"] = [later - earlier for earlier, later in pairwise(arrivals)]
    return values


def _targets(
    trace: Trace, profile: Profile | None, name: str
) -> tuple[tuple[float | None, float | None, float | None], str]:
    if profile is None:
        return (None, None, None), ""
    given = dict(profile.targets).get(name)
    if given is not None:
        base: list[int | None] = [given.p10, given.p50, given.p90]
        source = given.source
    else:
        distribution: Distribution | None = getattr(profile, name)
        if distribution is None:
            return (None, None, None), ""
        base = [distribution.quantile(rank) for rank in _RANKS]
        source = distribution.source
    p10, p50, p90 = (None if value is None else _scaled(trace, name, value) for value in base)
    return (p10, p50, p90), source


def _scaled(trace: Trace, name: str, value: int) -> float:
    scale = trace.scale
    if name == "turns":
        return float(value)
    if name == "tool_time_s":
        return float(value * scale.tool_time_factor / MICROSECONDS)
    factor = scale.output_factor if name == "output" else scale.context_factor
    return float(scaled_tokens(value, factor))


def _row(
    name: str,
    unit: str,
    values: list[float],
    targets: tuple[float | None, float | None, float | None],
    source: str,
) -> QuantileRow:
    ordered = sorted(values)
    p10, p50, p90 = (_quantile(ordered, rank) for rank in _RANKS)
    return QuantileRow(name, unit, len(values), *targets, p10, p50, p90, source)


def _single(
    name: str, unit: str, n: int, target: float | None, realised: float | None, source: str
) -> QuantileRow:
    return QuantileRow(name, unit, n, None, target, None, None, realised, None, source)


def _quantile(ordered: list[float], rank: Fraction) -> float | None:
    """The smallest value that at least a share `rank` of the values does not exceed."""
    return ordered[-(-len(ordered) * rank.numerator // rank.denominator) - 1] if ordered else None
