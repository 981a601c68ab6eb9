"""Whether a repeat's events tell one story with each other and with the trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from chipmark.codes import FindingCode
from chipmark.engine.events import Table
from chipmark.metrics.events import DECODE, DONE, EDGE_S, KV, MIXED, RepeatView, view
from chipmark.metrics.phases import new_positions, prefix_hits
from chipmark.metrics.rawcell import CellFacts, RepeatData, Scenario
from chipmark.metrics.steps import uncovered
from chipmark.metrics.times import contradictions
from chipmark.workload.passes import trace_ids
from chipmark.workload.trace import Trace

CONSTANT_IDS = 32
"""So many sampled ids, all of them the same, were not sampled from different contexts."""


@dataclass(frozen=True, slots=True)
class Inconsistency:
    """What does not fit."""

    code: FindingCode
    text: str
    """Names table, row and values."""


def inconsistencies(
    tables: Mapping[str, Table], trace: Trace, scenario: Scenario = "equal_n"
) -> list[Inconsistency]:
    """Every contradiction found; an empty list for events that can be believed.

    Only the scenario `capacity` runs the trace's sessions more than once (`workload.passes`).
    """
    try:
        joined = view(tables)
    except ValueError as error:
        return [Inconsistency(FindingCode.EVENTS_KEYS, str(error))]
    found = _window(joined)
    found += _launches(joined)
    found += _turns(joined, trace, passes=scenario == "capacity")
    found += _work(joined)
    return found


def untrue_words(data: RepeatData, facts: CellFacts) -> list[Inconsistency]:
    """What a backend says of times and ids against what the engine and the parent saw; of events
    since chipmark.events/2, which hold that. Nothing where the events' keys do not fit at all."""
    try:
        joined = view(data.events)
    except ValueError:
        return []  # `inconsistencies` names it
    found = [
        Inconsistency(FindingCode.CLOCK, t) for t in contradictions(joined, facts, data.timing)
    ]
    if data.timing is None and not facts.simulated:
        found.append(Inconsistency(FindingCode.CLOCK, "timing.json is missing: the parent's clock"))
    if not found and (text := uncovered(joined, on_host=facts.on_host).text):
        found.append(Inconsistency(FindingCode.UNCOVERED_TIME, text))
    return found + _ids(joined)


def _ids(joined: RepeatView) -> list[Inconsistency]:
    """Every output token of a done turn was sampled, with its two largest logits; or none was
    seen in the whole repeat, where the host sees no ids."""
    turns, rows = joined.tables["turns"], joined.tables["rows"]
    seen = rows["sampled"] >= 0
    if not seen.any():
        return []
    found = []
    known = seen & (joined.row_turn >= 0)
    counts = np.bincount(joined.row_turn[known], minlength=len(turns["turn"]))
    lost = np.flatnonzero((turns["status"] == DONE) & (counts != turns["n_out"]))
    if len(lost):
        i = int(lost[0])
        text = f"session {turns['session'][i]}, turn {turns['turn'][i]}: {counts[i]} ids of"
        text += f" {turns['n_out'][i]} output tokens ({len(lost)} such turns)"
        found.append(Inconsistency(FindingCode.IDS, text))
    unordered = np.flatnonzero(seen & ~(rows["best_logit"] >= rows["second_logit"]))
    if len(unordered):
        i = int(unordered[0])
        text = f"row {i}: an id whose two largest logits are {rows['best_logit'][i]:g} and"
        text += f" {rows['second_logit'][i]:g} ({len(unordered)} such rows)"
        found.append(Inconsistency(FindingCode.IDS, text))
    ids = rows["sampled"][seen]
    if len(ids) >= CONSTANT_IDS and (ids == ids[0]).all():
        text = f"all {len(ids)} sampled ids are {ids[0]}, whatever the context"
        found.append(Inconsistency(FindingCode.IDS, text))
    return found


def _window(joined: RepeatView) -> list[Inconsistency]:
    found = []
    if not joined.window_s > 0:
        return [Inconsistency(FindingCode.WINDOW, f"the window is {joined.window_s:g} s long")]
    launches = joined.tables["launches"]
    if (joined.launch_seconds < 0).any():
        row = int(np.flatnonzero(joined.launch_seconds < 0)[0])
        found.append(Inconsistency(FindingCode.LAUNCH_TIME, f"launch {row} ends before it starts"))
    inside = joined.launch_in & (launches["start_s"] >= joined.start_s - EDGE_S)
    busy = float(joined.launch_seconds[inside].sum())
    if busy > joined.window_s * (1 + 1e-6) + EDGE_S:
        text = f"launches take {busy:.6g} s of a window of {joined.window_s:.6g} s"
        found.append(Inconsistency(FindingCode.PHASES_EXCEED_WINDOW, text))
    return found


def _launches(joined: RepeatView) -> list[Inconsistency]:
    found = []
    launches, rows = joined.tables["launches"], joined.tables["rows"]
    real = launches["phase"] != KV
    n = len(real)
    tokens = np.bincount(joined.row_launch, weights=rows["n_tokens"], minlength=n)
    counts = np.bincount(joined.row_launch, minlength=n)
    for name, have in (("n_tokens", tokens), ("n_rows", counts)):
        wrong = np.flatnonzero(real & (launches[name] != have))
        if len(wrong):
            i = int(wrong[0])
            text = f"launch {launches['launch'][i]} says {name} {launches[name][i]}, its rows say"
            found.append(
                Inconsistency(FindingCode.LAUNCH_ROWS, f"{text} {have[i]:g} ({len(wrong)} such)")
            )
    area = launches["batch_bucket"].astype(np.int64) * launches["chunk_bucket"]
    small = np.flatnonzero(real & (area < launches["n_tokens"]))
    if len(small):
        i = int(small[0])
        text = (
            f"launch {launches['launch'][i]}: {launches['n_tokens'][i]} tokens in {area[i]} places"
        )
        found.append(Inconsistency(FindingCode.BUCKET_TOO_SMALL, text))
    positions = launches["n_positions"]
    few = np.flatnonzero(real & (positions >= 0) & (positions < launches["n_tokens"]))
    if len(few):
        i = int(few[0])
        text = f"launch {launches['launch'][i]}: {launches['n_tokens'][i]} tokens in"
        text += f" {positions[i]} positions ({len(few)} such)"
        found.append(Inconsistency(FindingCode.POSITIONS, text))
    return found


def _turns(joined: RepeatView, trace: Trace, *, passes: bool) -> list[Inconsistency]:
    """Counts equal the trace's; reuse within the ideal; times in order."""
    turns = joined.tables["turns"]
    found = []
    expected = {(s.id, t.index): t for s, t in trace.walk()}
    sessions = trace_ids(trace, turns["session"]) if passes else turns["session"]
    for i, key in enumerate(zip(sessions.tolist(), turns["turn"].tolist(), strict=True)):
        turn = expected.get(key)
        where = f"session {key[0]}, turn {key[1]}"
        if turn is None:
            found.append(Inconsistency(FindingCode.TURN_UNKNOWN, f"{where} is not in the trace"))
            break
        for name in ("prompt_tokens", "n_new", "n_cached", "n_out"):
            if int(turns[name][i]) != getattr(turn, name):
                text = f"{where}: {name} {turns[name][i]}, the trace says {getattr(turn, name)}"
                found.append(Inconsistency(FindingCode.TURN_COUNTS, text))
                break
        if found:
            break
    done = turns["status"] == DONE
    over = np.flatnonzero(turns["reused_tokens"] > turns["n_cached"])
    if len(over):
        i = int(over[0])
        text = f"session {turns['session'][i]}, turn {turns['turn'][i]}: reused"
        text += (
            f" {turns['reused_tokens'][i]} of {turns['n_cached'][i]} tokens an endless cache has"
        )
        found.append(Inconsistency(FindingCode.HIT_ABOVE_IDEAL, text))
    hit, ideal = (r.value for r in prefix_hits(joined))
    if hit is not None and ideal is not None and hit > ideal + 1e-12:
        found.append(
            Inconsistency(FindingCode.HIT_ABOVE_IDEAL, f"prefix_hit {hit:g} > ideal {ideal:g}")
        )
    times = [turns[n] for n in ("intended_s", "first_token_s", "last_token_s")]
    ordered = (times[0] <= times[1] + EDGE_S) & (times[1] <= times[2] + EDGE_S)
    wrong = np.flatnonzero(done & ~ordered)
    if len(wrong):
        i = int(wrong[0])
        text = f"session {turns['session'][i]}, turn {turns['turn'][i]}: times are not in order"
        found.append(Inconsistency(FindingCode.TURN_TIMES, text))
    return found


def _work(joined: RepeatView) -> list[Inconsistency]:
    """Done turns computed every new position, and one decode row for each output but the first."""
    turns, rows = joined.tables["turns"], joined.tables["rows"]
    n = len(turns["turn"])
    known = joined.row_turn >= 0
    low, high = new_positions(joined)
    new = np.bincount(joined.row_turn[known], weights=(high - low)[known], minlength=n)
    decode = known & ~joined.row_prompt & np.isin(joined.row_phase, (DECODE, MIXED))
    out = np.bincount(joined.row_turn[decode], weights=rows["n_tokens"][decode], minlength=n)
    done = turns["status"] == DONE
    found = []
    for name, have, need in (
        ("new prompt positions", new, turns["n_new"]),
        ("decode rows", out, turns["n_out"] - 1),
    ):
        lacking = np.flatnonzero(done & (have < need))
        if len(lacking):
            i = int(lacking[0])
            text = (
                f"session {turns['session'][i]}, turn {turns['turn'][i]} is done with {have[i]:g}"
            )
            text += f" of {need[i]} {name} ({len(lacking)} such turns)"
            found.append(Inconsistency(FindingCode.WORK_MISSING, text))
    return found
