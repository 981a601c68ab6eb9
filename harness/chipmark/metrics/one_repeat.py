"""Every metric of one repeat alone: ratios, latency samples, counts and energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chipmark.codes import NullReason
from chipmark.meters.contract import PowerSamples
from chipmark.metrics import energy as energy_of
from chipmark.metrics import latency, phases, replicas, roofline
from chipmark.metrics.energy_idle import idle_power
from chipmark.metrics.events import RepeatView
from chipmark.metrics.names import METRICS
from chipmark.metrics.quantiles import quantiles
from chipmark.metrics.ratios import Ratio, null
from chipmark.metrics.rawcell import CellFacts, RawCell, RepeatData, Roofs
from chipmark.metrics.repeats import is_complete
from chipmark.metrics.samples import KINDS, Kind, Samples, samples_of
from chipmark.metrics.samples import joined as joined_samples
from chipmark.metrics.steps import idle_seconds


@dataclass(frozen=True, slots=True)
class OneRepeat:
    """One repeat: its events joined, and every metric of it alone."""

    own: tuple[RepeatView, ...]
    """Of each replica, in the W that its engine gave it."""
    views: tuple[RepeatView, ...]
    """The same, as rates are taken of them: in `equal_n` in the unit's W."""
    window: tuple[float, float]
    """Start and end of the unit's W (`replicas.common_window`)."""
    complete: bool
    """Whether its numbers count; one that did not complete is in slo_attainment only."""
    work: phases.Work
    metered: phases.Work
    """The part of `work` that belongs to the joules measured."""
    ratios: dict[str, Ratio]
    samples: Mapping[Kind, Samples]
    counts: dict[str, int]
    energy: energy_of.WindowEnergy
    power: PowerSamples | None
    beside: Mapping[str, PowerSamples]
    """Of the meters next to the row's, by name."""

    @property
    def window_s(self) -> float:
        """The unit's W in seconds."""
        return self.window[1] - self.window[0]

    def values(self) -> dict[str, float | int | None]:
        """Its metrics by name, with `window_s` and `complete` (1 or 0); all None but these two
        where it did not complete."""
        if not self.complete:
            head: dict[str, float | int | None] = dict.fromkeys(METRICS)
            return head | {"window_s": self.window_s, "complete": 0}
        values: dict[str, float | int | None] = {n: r.value for n, r in self.ratios.items()}
        values |= {n: q.value for n, q in quantiles([self.samples]).items()}
        return values | self.counts | {"window_s": self.window_s, "complete": 1}


def one_repeat(raw: RawCell, data: RepeatData) -> OneRepeat:
    """The numbers of one repeat of a cell. ValueError where its tables contradict themselves."""
    facts = raw.facts
    own = replicas.own_views(data)
    views = replicas.unit_views(data, own, facts.scenario)
    window = replicas.common_window(own, facts.scenario)
    parts = [phases.work(joined) for joined in views]
    ended = [latency.completed_sessions(joined) for joined in views]
    shares = replicas.shares(views, window[1] - window[0])
    metered = replicas.total(parts, shares)
    idle = idle_power(raw.idle_before, raw.idle_after, facts.meter)
    measured = energy_of.window_energy(data.power, facts.meter, *window, idle.low_w or 0.0)
    if not shares and measured.reason is None:
        measured = energy_of.WindowEnergy(None, NullReason.W_TOO_SHORT, "none")
    each = [
        _of_replica(raw, joined, done, run.roofs)
        for joined, done, run in zip(views, parts, data.runs, strict=True)
    ]
    ratios = {name: replicas.of_unit(name, [found[name] for found in each]) for name in each[0]}
    sessions = sum(n * share for n, share in zip(ended, shares, strict=False))
    ratios |= _energy_ratios(facts, views, metered, measured, sessions, window[1] - window[0])
    whole = facts.scenario == "equal_n" or all(
        latency.capacity_rate(joined, raw.trace).value is not None for joined in views
    )
    if not whole and ratios["joule_per_session"].value is not None:
        ratios["joule_per_session"] = null(NullReason.W_TOO_SHORT)
    found = [samples_of(joined, raw.trace) for joined in views]
    return OneRepeat(
        own=own,
        views=views,
        complete=all(
            is_complete(joined, run, raw.trace, facts)
            for joined, run in zip(own, data.runs, strict=True)
        ),
        window=window,
        work=replicas.total(parts),
        metered=metered,
        ratios=ratios,
        samples={kind: joined_samples([part[kind] for part in found]) for kind in KINDS},
        counts={
            "sessions": sum(ended),
            "recomputed_tokens": sum(phases.recomputed_tokens(joined) for joined in views),
        },
        energy=measured,
        power=data.power,
        beside=data.beside,
    )


def _of_replica(
    raw: RawCell, joined: RepeatView, work: phases.Work, roofs: Roofs | None
) -> dict[str, Ratio]:
    """What one device did, by itself."""
    facts = raw.facts
    hit, ideal = phases.prefix_hits(joined)
    reads = roofline.decode_reads(joined, raw.trace, facts)
    return {
        **phases.rates(joined, work),
        "goodput_turns_s": latency.goodput_turns(joined, facts.slo, facts.scenario),
        "goodput_tok_s": latency.goodput_tokens(joined, facts.slo, facts.scenario),
        "slo_attainment": latency.slo_attainment(joined, facts.slo, facts.scenario),
        "sessions_per_hour": latency.sessions_per_hour(joined, facts, raw.trace),
        "prefix_hit": hit,
        "prefix_hit_ideal": ideal,
        "pad_ratio": phases.pad_ratio(joined),
        "mbu": roofline.mbu(reads, roofs),
        "mbu_nameplate": roofline.mbu_nameplate(reads, facts, roofs),
        "mfu": roofline.mfu(joined, facts, roofs),
        "host_s_per_step": phases.host_seconds(joined),
        "idle_s_per_step": idle_seconds(joined),
        "bus_bytes_per_step": phases.bus_bytes(joined, on_host=facts.on_host),
    }


def _energy_ratios(
    facts: CellFacts,
    views: Sequence[RepeatView],
    work: phases.Work,
    measured: energy_of.WindowEnergy,
    sessions: float,
    window_s: float,
) -> dict[str, Ratio]:
    names = ("power_w", "tok_per_joule", "joule_per_session")
    if facts.meters_more:
        return dict.fromkeys(names, null(NullReason.UNIT_PARTLY_USED))
    if measured.reason is not None:
        return dict.fromkeys(names, null(measured.reason))
    per_session = Ratio(measured.energy_j, sessions)
    if (
        facts.loop == "closed"
        and facts.scenario == "equal_n"
        and any(latency.unfinished_sessions(joined) for joined in views)
    ):
        per_session = null(NullReason.SESSION_UNFINISHED)
    elif not sessions:
        per_session = null(NullReason.NO_SESSIONS)
    return {
        "power_w": Ratio(measured.energy_j, window_s),
        "tok_per_joule": Ratio(float(work.tokens), measured.energy_j),
        "joule_per_session": per_session,
    }
