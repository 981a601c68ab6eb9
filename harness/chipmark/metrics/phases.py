"""Work done in the window, seconds by phase, the rates, and what work was wasted.

Work tokens come from the trace alone. A prompt position earns when it is in
[n_cached, prompt_tokens) of its turn, once; an output token earns when it was emitted. So
computing a position again, padding and copying cost time and earn nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chipmark.codes import NullReason
from chipmark.engine.contract import PHASES
from chipmark.metrics.events import (
    DECODE,
    DONE,
    EDGE_S,
    KV,
    MIXED,
    PREFILL,
    UNFINISHED,
    Floats,
    Ints,
    RepeatView,
)
from chipmark.metrics.ratios import Ratio, null

PURE_SHARE = 0.9
"""Least share of the decoded tokens that must come from decode-only launches for a decode rate."""


@dataclass(frozen=True, slots=True)
class Work:
    """Work tokens in W: new prompt tokens and output tokens.

    n_new_pure: the part of n_new that prefill-only launches computed. n_decoded: output tokens
    that a launch with decode rows sampled (all but the first of a turn, which is prefill's);
    n_decoded_pure: those that decode-only launches sampled.
    """

    n_new: int
    n_out: int
    n_new_pure: float
    n_decoded: float
    n_decoded_pure: float

    @property
    def tokens(self) -> int:
        """n_new + n_out."""
        return self.n_new + self.n_out


def new_positions(view: RepeatView) -> tuple[Ints, Ints]:
    """Per row, the half-open range of positions that are new work of its turn; empty: (0, 0)."""
    rows, turns = view.tables["rows"], view.tables["turns"]
    if not len(turns["turn"]):
        zero = np.zeros(len(rows["start"]), dtype=np.int64)
        return zero, zero
    start = rows["start"].astype(np.int64)
    low = np.maximum(start, turns["n_cached"][view.row_turn])
    high = np.minimum(start + rows["n_tokens"], turns["prompt_tokens"][view.row_turn])
    real = (view.row_turn >= 0) & view.row_prompt & (high > low)
    return np.where(real, low, 0), np.where(real, high, 0)


def work(view: RepeatView) -> Work:
    """Work tokens of the turns that were done, or were under way when the run ended."""
    turns = view.tables["turns"]
    n = len(turns["turn"])
    earns = np.isin(turns["status"], (DONE, UNFINISHED))
    low, high = new_positions(view)
    positions = (high - low).astype(np.float64)
    computed = _per_turn(view, positions, view.row_in, n)
    pure = _per_turn(view, positions, view.row_in & np.isin(view.row_phase, PREFILL), n)
    new = np.minimum(computed, turns["n_new"]) * earns
    one = np.ones(len(low))
    samples = view.row_in & ~view.row_prompt
    alone = _per_turn(view, one, samples & (view.row_phase == DECODE), n)
    all_rows = alone + _per_turn(view, one, samples & (view.row_phase == MIXED), n)
    decoded = np.minimum(all_rows, np.maximum(turns["n_out"] - 1, 0)) * earns
    first = turns["first_token_s"]
    seen_first = (first > view.start_s) & (first <= view.end_s + EDGE_S) & (turns["n_out"] > 0)
    return Work(
        n_new=int(new.sum()),
        n_out=int((decoded + seen_first * earns).sum()),
        n_new_pure=float((new * _share(pure, computed)).sum()),
        n_decoded=float(decoded.sum()),
        n_decoded_pure=float((decoded * _share(alone, all_rows)).sum()),
    )


def seconds_by_phase(view: RepeatView) -> dict[str, float]:
    """Device seconds of the launches in W, by phase name; every phase has an entry."""
    phase = view.tables["launches"]["phase"]
    return {
        name: float(view.launch_seconds[view.launch_in & (phase == index)].sum())
        for index, name in enumerate(PHASES)
    }


def rates(view: RepeatView, done: Work) -> dict[str, Ratio]:
    """decode_rows, prefill_tok_s, decode_tok_s and total_tok_s of one repeat.

    Copies and moves of KV are paid by prefill: they bring a prompt its prefix, or keep one for
    others. What a launch adds to the cache is in the launch itself.
    """
    launches = view.tables["launches"]
    phase = launches["phase"]
    prefill = view.launch_in & np.isin(phase, PREFILL)
    decode = view.launch_in & (phase == DECODE)
    paid = prefill | (view.launch_in & (phase == KV))
    found = {
        "decode_rows": Ratio(float(launches["n_rows"][decode].sum()), float(decode.sum())),
        "prefill_tok_s": Ratio(done.n_new_pure, _seconds(view, paid)),
        "decode_tok_s": _decode_rate(done, _seconds(view, decode)),
        "total_tok_s": Ratio(done.tokens, view.window_s),
    }
    if not decode.any():
        found["decode_rows"] = null(NullReason.NO_DECODE_LAUNCHES)
    if not prefill.any():
        found["prefill_tok_s"] = null(NullReason.NO_PREFILL_LAUNCHES)
    return found


def pad_ratio(view: RepeatView) -> Ratio:
    """Positions that were computed over the useful ones; 1 where nothing is padded.

    Positions are counted by the launch; a log of chipmark.events/1 does not have them, and batch
    bucket x chunk bucket is taken, which counts ragged launches as padded.
    """
    launches = view.tables["launches"]
    real = view.launch_in & (launches["phase"] != KV)
    area = launches["batch_bucket"].astype(np.int64) * launches["chunk_bucket"]
    counted = launches["n_positions"]
    positions = np.where(counted >= 0, counted, area)
    return Ratio(float(positions[real].sum()), float(launches["n_tokens"][real].sum()))


def necessary_tokens(view: RepeatView) -> Ints:
    """Per turn, the positions that an endless cache computes to answer it.

    n_new, the outputs but the last (whose keys no position of the turn reads), and the last output
    of the turn before where the prompt continues from it: its work is that turn's n_out.
    """
    turns = view.tables["turns"]
    continues = _continues(view)
    needed = turns["n_new"].astype(np.int64) + np.maximum(turns["n_out"] - 1, 0) + continues
    return np.asarray(needed, dtype=np.int64)


def recomputed_tokens(view: RepeatView) -> int:
    """Tokens computed beyond what an endless cache computes, over the turns done inside W."""
    turns = view.tables["turns"]
    rows = view.tables["rows"]
    computed = _per_turn(
        view, rows["n_tokens"].astype(np.float64), view.row_phase != KV, len(turns["turn"])
    )
    beyond = np.maximum(computed - necessary_tokens(view), 0)
    return int(beyond[view.turn_in & (turns["status"] == DONE)].sum())


def prefix_hits(view: RepeatView) -> tuple[Ratio, Ratio]:
    """(prefix_hit, prefix_hit_ideal) over the turns done inside W."""
    turns = view.tables["turns"]
    done = view.turn_in & (turns["status"] == DONE)
    prompt = float(turns["prompt_tokens"][done].sum())
    return (
        Ratio(float(turns["reused_tokens"][done].sum()), prompt),
        Ratio(float(turns["n_cached"][done].sum()), prompt),
    )


def host_seconds(view: RepeatView) -> Ratio:
    """Host seconds of engine and backend that the device did not hide, over steps.

    A step's host time is the engine's and its launches'; the device hid what lies beyond the
    gaps in which it stood still before the step's launches, so the smaller of the two is
    counted. A simulated clock has no such gaps, and so counts nothing.
    """
    steps, launches = view.tables["steps"], view.tables["launches"]
    n_steps = len(steps["step"])
    if not n_steps:
        return Ratio(0.0, 0.0)
    index = {int(s): i for i, s in enumerate(steps["step"])}
    at = np.array([index[int(s)] for s in launches["step"]], dtype=np.int64)
    host = steps["engine_s"].astype(np.float64).copy()
    gaps = np.zeros(n_steps)
    if len(at):
        np.add.at(host, at, launches["host_s"])
        order = np.argsort(launches["start_s"], kind="stable")
        ends = np.maximum.accumulate(launches["end_s"][order])
        before = np.concatenate(([view.start_s], ends[:-1]))
        np.add.at(gaps, at[order], np.maximum(launches["start_s"][order] - before, 0.0))
    return Ratio(float(np.minimum(host, gaps).sum()), float(n_steps))


def _continues(view: RepeatView) -> Ints:
    """1 where a turn's prompt holds the whole context of the session's turn before, else 0."""
    turns = view.tables["turns"]
    # By time, not by number: a lane may run a session again.
    order = np.lexsort((turns["turn"], turns["intended_s"], turns["session"]))
    session, number = turns["session"][order], turns["turn"][order]
    context = (turns["prompt_tokens"] + turns["n_out"])[order]
    result = np.zeros(len(order), dtype=np.int64)
    if len(order) > 1:
        same = (session[1:] == session[:-1]) & (number[1:] == number[:-1] + 1)
        # n_cached reaches the end of the context before only when nothing was cut off.
        result[order[1:]] = same & (turns["n_cached"][order][1:] >= context[:-1])
    return result


def _decode_rate(done: Work, seconds: float) -> Ratio:
    if not done.n_decoded:
        return null(NullReason.NO_DECODE_LAUNCHES)
    if done.n_decoded_pure < PURE_SHARE * done.n_decoded:
        return null(NullReason.MIXED)
    return Ratio(done.n_decoded_pure, seconds)


def _seconds(view: RepeatView, launches: np.ndarray) -> float:
    return float(view.launch_seconds[launches].sum())


def _per_turn(view: RepeatView, values: Floats, mask: np.ndarray, n: int) -> Floats:
    use = mask & (view.row_turn >= 0)
    summed = np.bincount(view.row_turn[use], weights=values[use], minlength=n)
    return np.asarray(summed, dtype=np.float64)


def _share(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)


def bus_bytes(view: RepeatView, *, on_host: bool) -> Ratio:
    """`bus_bytes_per_step`: bytes to and from the device over the steps whose launches are all
    decode. KV that lies with the host crosses in every one of them, KV that lies with the device in
    none; copies inside one memory are not counted. on_host: the device is the host's own processor.
    """
    if on_host:
        return null(NullReason.NO_BUS)
    steps, launches = view.tables["steps"], view.tables["launches"]
    decode = np.isin(steps["step"], launches["step"][launches["phase"] == PHASES.index("decode")])
    others = np.isin(steps["step"], launches["step"][launches["phase"] != PHASES.index("decode")])
    alone = decode & ~others
    moved = steps["h2d_bytes"][alone] + steps["d2h_bytes"][alone]
    if not alone.any():
        return null(NullReason.NO_DECODE_LAUNCHES)
    return Ratio(float(moved.sum()), float(alone.sum()))
