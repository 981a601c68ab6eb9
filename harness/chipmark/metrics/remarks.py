"""What a row must say of its repeats with their numbers: as (code, text)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chipmark.codes import NoteCode, NullReason
from chipmark.metrics.ranking import MIN_REPEATS
from chipmark.metrics.rawcell import CellFacts, Roofs
from chipmark.metrics.repeats import drift

TOOL_TIME_SHARE = 0.10
"""Largest share of W in which no turn may be outstanding for total_tok_s to be the device's."""

_NOT_MEASURED = {"assumed": NoteCode.ENERGY_ASSUMED, "declared": NoteCode.ENERGY_DECLARED}

FAR_OVER_ROOF = 3.0
"""Share of a measured roof, in any repeat, that bars a row: not even a shared machine that gave its
probes a third of the speed that it gave the run explains it, so what was timed is not the work."""

Remark = tuple[NoteCode, str]
"""A note of a row: its code and its text."""


@dataclass(frozen=True, slots=True)
class RepeatSummary:
    """One repeat, as remarks need it."""

    complete: bool
    lost_turns: int
    """Failed, dropped or (where they were owed) unfinished."""
    lost_sessions: int
    """The same of sessions."""
    window_s: float
    nobody_waits_s: float
    """Seconds of W without an outstanding turn."""
    energy_refused: NullReason | None
    """Why the energy of W is not known; None where it is."""
    energy_unbounded: NullReason | None
    """Why its error has no bound; None where it has one."""
    has_mbu: bool
    roofs: Roofs | None
    values: Mapping[str, float | int | None]
    """The repeat's metrics, None where it is not complete."""


def remarks(
    facts: CellFacts,
    repeats: Sequence[RepeatSummary],
    over_roof: Sequence[tuple[str, Sequence[float]]],
    probed: Sequence[tuple[str, Sequence[float]]],
) -> list[Remark]:
    """Everything to say. over_roof: columns whose share comes out above 1, with their repeats'.
    probed: columns that are shares of a measured roof, with those of their repeats."""
    done = [repeat for repeat in repeats if repeat.complete]
    load = _load_bound(facts, done)
    return [
        *load,
        *_not_steady(done, bool(load)),
        *_lost(facts, repeats, done),
        *_energy(facts, done),
        *_roofs(done),
        *(
            (NoteCode.OVER_ROOF, f"{name} is over 1: {_listed(shares)} in the repeats")
            for name, shares in over_roof
        ),
        *(
            (
                NoteCode.FAR_OVER_ROOF,
                f"{name} is {max(shares):.3g} of the measured roof in a repeat",
            )
            for name, shares in probed
            if max(shares, default=0.0) > FAR_OVER_ROOF
        ),
    ]


def _load_bound(facts: CellFacts, done: Sequence[RepeatSummary]) -> list[Remark]:
    window = sum(repeat.window_s for repeat in done)
    share = sum(repeat.nobody_waits_s for repeat in done) / window if window > 0 else 0.0
    if facts.loop == "open":
        return [
            (NoteCode.LOAD_BOUND, "an open loop: arrivals set total_tok_s, which is not ranked")
        ]
    if share > TOOL_TIME_SHARE:
        text = f"no turn was outstanding in {share:.0%} of W, so tool time sets total_tok_s"
        return [(NoteCode.LOAD_BOUND, f"{text}, which is not ranked")]
    return []


def _not_steady(done: Sequence[RepeatSummary], load_bound: bool) -> list[Remark]:
    """A drift of total_tok_s, or where the load sets that, of the TTFT that is ranked instead."""
    names = ("ttft_p50_s", "ttft_cold_p50_s") if load_bound else ("total_tok_s",)
    for name in names:
        values = [float(v) for r in done if (v := r.values[name]) is not None]
        if not values:
            continue
        found = drift(values)
        if found is None or not found.beyond:
            return []
        low, high = found.allowed
        text = f"{name} of the repeats: {_listed(values)}; the last third is {found.ratio:.3f} of"
        text += f" the first, and noise alone stays within {low:.3f} to {high:.3f}"
        return [(NoteCode.NOT_STEADY, text)]
    return []


def _lost(
    facts: CellFacts, repeats: Sequence[RepeatSummary], done: Sequence[RepeatSummary]
) -> list[Remark]:
    notes: list[Remark] = []
    if len(done) < len(repeats):
        text = f"{len(repeats) - len(done)} of {len(repeats)} repeats did not complete"
        notes.append(
            (NoteCode.REPEAT_INCOMPLETE, f"{text} and are in no number but slo_attainment")
        )
    if len(done) < MIN_REPEATS:
        notes.append((NoteCode.FEW_REPEATS, f"{len(done)} of at least {MIN_REPEATS} repeats"))
    if turns := sum(repeat.lost_turns for repeat in repeats):
        unfinished = " or did not finish" if facts.scenario == "equal_n" else ""
        notes.append((NoteCode.TURNS_LOST, f"{turns} turns failed, were dropped{unfinished}"))
    sessions = sum(repeat.lost_sessions for repeat in repeats)
    if sessions and facts.scenario == "equal_n":
        notes.append((NoteCode.SESSIONS_LOST, f"{sessions} sessions did not end as they should"))
    return notes


def _energy(facts: CellFacts, done: Sequence[RepeatSummary]) -> list[Remark]:
    meter = facts.meter
    if meter is None:
        return []
    notes: list[Remark] = []
    refused = next((r.energy_refused for r in done if r.energy_refused), None)
    if refused is not None and refused != NullReason.NOT_MEASURED:
        notes.append((NoteCode.ENERGY_REFUSED, f"{meter.name}: {refused}"))
    unbounded = next((r.energy_unbounded for r in done if r.energy_unbounded), None)
    if unbounded is not None and meter.source not in _NOT_MEASURED:
        text = f"{meter.name}: no bound of the error of its joules, so they are not ranked"
        notes.append((NoteCode.METER, f"{text}: {unbounded.text}"))
    if meter.source in _NOT_MEASURED:
        notes.append((_NOT_MEASURED[meter.source], meter.method))
    return notes


def _roofs(done: Sequence[RepeatSummary]) -> list[Remark]:
    notes: list[Remark] = []
    roofs = [repeat.roofs for repeat in done if repeat.roofs is not None and repeat.has_mbu]
    if any(roof.llc_bytes is None for roof in roofs):
        notes.append((NoteCode.LLC_UNKNOWN, "the size of the last-level cache is not known"))
    for roof in roofs:
        if roof.wanted_bytes is not None and roof.wanted_bytes != roof.read_bytes:
            text = f"read bandwidth was probed over {roof.read_bytes:,} bytes; a decode launch"
            notes.append((NoteCode.PROBE_SIZE, f"{text} reads {roof.wanted_bytes:,}"))
            break
    return notes


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
