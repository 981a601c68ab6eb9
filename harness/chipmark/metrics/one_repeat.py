"""Every metric of one repeat alone: ratios, latency samples, counts and energy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from chipmark.codes import NullReason
from chipmark.meters.contract import PowerSamples
from chipmark.metrics import energy as energy_of
from chipmark.metrics import latency, phases, roofline
from chipmark.metrics.events import RepeatView, view
from chipmark.metrics.names import METRICS
from chipmark.metrics.quantiles import quantiles
from chipmark.metrics.ratios import Ratio, null
from chipmark.metrics.rawcell import CellFacts, RawCell, RepeatData
from chipmark.metrics.repeats import is_complete
from chipmark.metrics.samples import Kind, Samples, samples_of
from chipmark.metrics.steps import idle_seconds


@dataclass(frozen=True, slots=True)
class OneRepeat:
    """One repeat: its events joined, and every metric of it alone."""

    view: RepeatView
    complete: bool
    """Whether its numbers count; one that did not complete is in slo_attainment only."""
    work: phases.Work
    ratios: dict[str, Ratio]
    samples: Mapping[Kind, Samples]
    counts: dict[str, int]
    energy: energy_of.WindowEnergy
    power: PowerSamples | None

    def values(self) -> dict[str, float | int | None]:
        """Its metrics by name, with `window_s` and `complete` (1 or 0); all None but these two
        where it did not complete."""
        if not self.complete:
            head: dict[str, float | int | None] = dict.fromkeys(METRICS)
            return head | {"window_s": self.view.window_s, "complete": 0}
        values: dict[str, float | int | None] = {n: r.value for n, r in self.ratios.items()}
        values |= {n: q.value for n, q in quantiles([self.samples]).items()}
        return values | self.counts | {"window_s": self.view.window_s, "complete": 1}


def one_repeat(raw: RawCell, data: RepeatData) -> OneRepeat:
    """The numbers of one repeat of a cell. ValueError where its tables contradict themselves."""
    facts = raw.facts
    joined = view(data.events)
    work = phases.work(joined)
    hit, ideal = phases.prefix_hits(joined)
    measured = energy_of.window_energy(data.power, facts.meter, joined.start_s, joined.end_s)
    sessions = latency.completed_sessions(joined)
    reads = roofline.decode_reads(joined, raw.trace, facts)
    ratios = {
        **phases.rates(joined, work),
        "goodput_turns_s": latency.goodput_turns(joined, facts.slo, facts.scenario),
        "goodput_tok_s": latency.goodput_tokens(joined, facts.slo, facts.scenario),
        "slo_attainment": latency.slo_attainment(joined, facts.slo, facts.scenario),
        "sessions_per_hour": latency.sessions_per_hour(joined, facts, raw.trace),
        "prefix_hit": hit,
        "prefix_hit_ideal": ideal,
        "pad_ratio": phases.pad_ratio(joined),
        "mbu": roofline.mbu(reads, data.roofs),
        "mbu_nameplate": roofline.mbu_nameplate(reads, facts, data.roofs),
        "mfu": roofline.mfu(joined, facts, data.roofs),
        "host_s_per_step": phases.host_seconds(joined),
        "idle_s_per_step": idle_seconds(joined),
        "bus_bytes_per_step": phases.bus_bytes(joined, on_host=facts.on_host),
        **_energy_ratios(facts, joined, work, measured, sessions),
    }
    whole = (
        facts.scenario == "equal_n" or latency.capacity_rate(joined, raw.trace).value is not None
    )
    if not whole and ratios["joule_per_session"].value is not None:
        ratios["joule_per_session"] = null(NullReason.W_TOO_SHORT)
    return OneRepeat(
        view=joined,
        complete=is_complete(joined, data, raw.trace, facts),
        work=work,
        ratios=ratios,
        samples=samples_of(joined, raw.trace),
        counts={"sessions": sessions, "recomputed_tokens": phases.recomputed_tokens(joined)},
        energy=measured,
        power=data.power,
    )


def _energy_ratios(
    facts: CellFacts,
    joined: RepeatView,
    work: phases.Work,
    measured: energy_of.WindowEnergy,
    sessions: int,
) -> dict[str, Ratio]:
    names = ("power_w", "tok_per_joule", "joule_per_session")
    if facts.used < facts.of:
        return dict.fromkeys(names, null(NullReason.UNIT_PARTLY_USED))
    if measured.reason is not None:
        return dict.fromkeys(names, null(measured.reason))
    per_session = Ratio(measured.energy_j, float(sessions))
    if (
        facts.loop == "closed"
        and facts.scenario == "equal_n"
        and latency.unfinished_sessions(joined)
    ):
        per_session = null(NullReason.SESSION_UNFINISHED)
    elif not sessions:
        per_session = null(NullReason.NO_SESSIONS)
    return {
        "power_w": Ratio(measured.energy_j, joined.window_s),
        "tok_per_joule": Ratio(float(work.tokens), measured.energy_j),
        "joule_per_session": per_session,
    }
