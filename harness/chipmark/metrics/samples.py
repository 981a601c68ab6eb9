"""Latency samples by what they are samples of: a turn, a gap between two tokens, a session.

The same work is run again by every repeat (and by every pass of the capacity scenario), so a
sample carries the identity of its work: n counts distinct identities, never copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from chipmark.engine.events import Table
from chipmark.metrics.events import (
    DECODE,
    DONE,
    EDGE_S,
    MIXED,
    UNFINISHED,
    Bools,
    Floats,
    Ints,
    RepeatView,
)
from chipmark.workload.passes import trace_ids
from chipmark.workload.trace import Trace

Kind = Literal["ttft_append", "ttft_cold", "tpot", "itl", "session"]
"""TTFT of append and of cold turns, TPOT of turns with two tokens or more, gaps between the
tokens of a turn, whole sessions."""

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Samples:
    """Values in seconds, with the work that each belongs to: session, turn (-1 for a session),
    position of the token in the context (-1 but for gaps)."""

    session: Ints
    turn: Ints
    position: Ints
    value_s: Floats

    def __len__(self) -> int:
        return len(self.value_s)


def samples_of(view: RepeatView, trace: Trace) -> dict[Kind, Samples]:
    """All samples of one repeat, of what was done inside W, by the sessions of the trace: passes
    of the capacity scenario run the same work again."""
    found = {
        **turn_samples(view.tables["turns"], view.start_s, view.end_s),
        "itl": token_gaps(view),
        "session": _of_sessions(view),
    }
    return {kind: of_trace(samples, trace) for kind, samples in found.items()}


def of_trace(samples: Samples, trace: Trace) -> Samples:
    """The samples with the trace's session ids in place of those of its passes."""
    return replace(samples, session=trace_ids(trace, samples.session))


def turn_samples(turns: Table, start_s: float, end_s: float) -> dict[Kind, Samples]:
    """TTFT of append and cold turns, from the intended send to the first token that the host could
    see, and TPOT of turns with two tokens or more; of the turns that were done inside W."""
    done = (turns["status"] == DONE) & (turns["intended_s"] >= start_s - EDGE_S)
    done &= turns["last_token_s"] <= end_s + EDGE_S
    cold = turns["cold"] != 0
    ttft = turns["first_token_s"] - turns["intended_s"]
    more = turns["n_out"] > 1
    pace = (turns["last_token_s"] - turns["first_token_s"]) / np.maximum(turns["n_out"] - 1, 1)
    return {
        "ttft_append": _of_turns(turns, done & ~cold, ttft),
        "ttft_cold": _of_turns(turns, done & cold, ttft),
        "tpot": _of_turns(turns, done & more, pace),
    }


def token_gaps(view: RepeatView) -> Samples:
    """Times between the tokens of a turn as the host sees them, in seconds.

    A token is seen when the step that sampled it is visible; the first one is the turn's own
    `first_token_s`. Both tokens of a gap lie in W; of turns that were done or under way.
    """
    turns, rows, steps = (view.tables[name] for name in ("turns", "rows", "steps"))
    use = view.row_in & (view.row_turn >= 0) & ~view.row_prompt
    use &= np.isin(view.row_phase, (DECODE, MIXED))
    order = np.argsort(steps["step"], kind="stable")
    launch_step = view.tables["launches"]["step"][view.row_launch[use]]
    seen_at = order[np.searchsorted(steps["step"][order], launch_step)]
    started = np.flatnonzero(np.isfinite(turns["first_token_s"]) & (turns["n_out"] > 0))
    turn = np.concatenate((started, view.row_turn[use]))
    # The first token is sampled from the prompt's last position.
    last_prompt = turns["prompt_tokens"][started].astype(np.int64) - 1
    position = np.concatenate((last_prompt, rows["start"][use].astype(np.int64)))
    seen = np.concatenate((turns["first_token_s"][started], steps["visible_s"][seen_at]))
    earns = np.isin(turns["status"], (DONE, UNFINISHED))[turn] if len(turn) else turn.astype(bool)
    inside = earns & (seen >= view.start_s - EDGE_S) & (seen <= view.end_s + EDGE_S)
    turn, position, seen = turn[inside], position[inside], seen[inside]
    order = np.lexsort((seen, position, turn))
    turn, position, seen = turn[order], position[order], seen[order]
    # A position that was computed twice gave its token the first time.
    fresh = np.ones(len(turn), dtype=np.bool_)
    fresh[1:] = (turn[1:] != turn[:-1]) | (position[1:] != position[:-1])
    turn, position, seen = turn[fresh], position[fresh], seen[fresh]
    gap = (turn[1:] == turn[:-1]) & (position[1:] == position[:-1] + 1)
    owner = turn[1:][gap]
    return Samples(
        turns["session"][owner].astype(np.int64),
        turns["turn"][owner].astype(np.int64),
        position[1:][gap],
        np.diff(seen)[gap],
    )


def joined(parts: Sequence[Samples]) -> Samples:
    """Samples of several repeats after each other, copies and all."""
    if not parts:
        none = np.zeros(0, dtype=np.int64)
        return Samples(none, none, none, np.zeros(0))
    return Samples(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("session", "turn", "position", "value_s")
        )
    )


def medians(samples: Samples) -> Samples:
    """One sample for each distinct piece of work: the median of its copies.

    The median, because a copy differs from another by the machine's noise alone, which has a
    heavy upper tail: one hiccup must not become what that turn costs. Of an even number of copies
    it is the mean of the middle two, so that two repeats do not count their better one.
    """
    order = np.lexsort((samples.value_s, samples.position, samples.turn, samples.session))
    sorted_ = _taken(samples, order)
    first = np.flatnonzero(_new(sorted_))
    count = np.diff(np.append(first, len(sorted_)))
    middle = (sorted_.value_s[first + (count - 1) // 2] + sorted_.value_s[first + count // 2]) / 2
    return Samples(sorted_.session[first], sorted_.turn[first], sorted_.position[first], middle)


def n_distinct(samples: Samples) -> int:
    """How many different pieces of work the samples are of."""
    order = np.lexsort((samples.position, samples.turn, samples.session))
    return int(_new(_taken(samples, order)).sum())


def by_kind(repeats: Sequence[Mapping[Kind, Samples]], kind: Kind) -> Samples:
    """What a quantile of `kind` is taken of: medians of the copies, but all gaps as they are.

    A stall falls on another gap in every repeat: the median of a gap's copies would hide exactly
    what gaps are looked at for.
    """
    pooled = joined([repeat[kind] for repeat in repeats])
    return pooled if kind == "itl" else medians(pooled)


def _of_turns(turns: Table, use: Bools, values_s: Floats) -> Samples:
    return Samples(
        turns["session"][use].astype(np.int64),
        turns["turn"][use].astype(np.int64),
        np.full(int(use.sum()), -1, dtype=np.int64),
        values_s[use],
    )


def _of_sessions(view: RepeatView) -> Samples:
    """Sessions from their first intended send to their last token, tool time included."""
    sessions = view.tables["sessions"]
    start, end = sessions["start_s"], sessions["end_s"]
    use = (sessions["status"] == DONE) & (start >= view.start_s - EDGE_S)
    use &= end <= view.end_s + EDGE_S
    none = np.full(int(use.sum()), -1, dtype=np.int64)
    return Samples(sessions["session"][use].astype(np.int64), none, none, (end - start)[use])


def _taken(samples: Samples, index: Ints) -> Samples:
    return Samples(
        samples.session[index],
        samples.turn[index],
        samples.position[index],
        samples.value_s[index],
    )


def _new(ordered: Samples) -> Bools:
    """Where another piece of work begins in sorted samples."""
    new = np.ones(len(ordered), dtype=np.bool_)
    if len(new) > 1:
        new[1:] = False
        for column in (ordered.session, ordered.turn, ordered.position):
            new[1:] |= column[1:] != column[:-1]
    return new
