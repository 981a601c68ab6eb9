"""Shares of the machine's roofs: `mbu` of decode-only launches, `mfu` of prefill-only ones.

Numerators are what the model and the trace make necessary (`chipmark_models.costs`): padding,
over-read, copies and recomputation are not in them, so a backend cannot flatter itself.
"""

from __future__ import annotations

import numpy as np

from chipmark.metrics.events import DECODE, PREFILL, Ints, RepeatView
from chipmark.metrics.phases import new_positions
from chipmark.metrics.ratios import Ratio, null
from chipmark.metrics.rawcell import CellFacts, Roofs
from chipmark.workload.passes import pass_numbers, trace_ids
from chipmark.workload.trace import Trace
from chipmark_models import costs
from chipmark_models.config import ModelConfig
from chipmark_models.errors import UnknownNameError

ROOF_DRIFT = 0.15
"""Largest relative difference of the probes before and after a repeat (DEFINITIONS, `mbu`)."""


def live_rows(view: RepeatView, trace: Trace) -> tuple[Ints, Ints, Ints]:
    """Per decode-only launch in W: (unique live KV rows, rows written, launches' row counts).

    A decode row attends to `start` cached tokens and writes one. Of sessions in one launch that
    share a group's prefix, the shared tokens count once: the longest that one of them holds.
    """
    launches, rows = view.tables["launches"], view.tables["rows"]
    n = len(launches["launch"])
    use = view.row_in & (view.row_phase == DECODE)
    at = view.row_launch[use]
    start = rows["start"][use].astype(np.int64)
    live = np.bincount(at, weights=start, minlength=n)
    written = np.bincount(at, weights=rows["n_tokens"][use], minlength=n)
    counts = np.bincount(at, minlength=n)
    group, shared = _groups(trace, rows["session"][use])
    shared = np.minimum(shared, start)
    order = np.lexsort((shared, group, at))
    a, g, s = at[order], group[order], shared[order]
    if len(a):
        # The last of each (launch, group) run holds the longest prefix; the others repeat it.
        last = np.append((a[1:] != a[:-1]) | (g[1:] != g[:-1]), True)
        live -= np.bincount(a[~last], weights=s[~last], minlength=n)
    decode = view.launch_in & (launches["phase"] == DECODE)
    return (
        live[decode].astype(np.int64),
        written[decode].astype(np.int64),
        counts[decode].astype(np.int64),
    )


def necessary_decode_bytes(view: RepeatView, trace: Trace, facts: CellFacts) -> float:
    """Bytes that the decode-only launches in W had to move. UnknownNameError for a precision."""
    config = _config(facts)
    live, written, counts = live_rows(view, trace)
    cache: dict[int, float] = {}
    weights = 0.0
    for rows in counts.tolist():
        if rows not in cache:
            cache[rows] = costs.weight_bytes_per_launch(config, facts.weights_precision, rows)
        weights += cache[rows]
    return weights + costs.kv_bytes_per_token(config, facts.kv_precision) * float(
        live.sum() + written.sum()
    )


def mbu(view: RepeatView, trace: Trace, facts: CellFacts, roofs: Roofs | None) -> Ratio:
    """Necessary bytes over (device seconds x read bandwidth) of the decode-only launches."""
    decode = view.launch_in & (view.tables["launches"]["phase"] == DECODE)
    if not decode.any():
        return null("no_decode_launches")
    if facts.config is None:
        return null("no_model_config")
    if roofs is None or roofs.read_before is None or roofs.read_after is None:
        return null("no_probe")
    if roofs.llc_bytes is not None and roofs.read_bytes <= roofs.llc_bytes:
        return null("in_cache")
    if _drifted(roofs.read_before, roofs.read_after):
        return null("roof_unsteady")
    try:
        moved = necessary_decode_bytes(view, trace, facts)
    except UnknownNameError:
        return null("precision_unknown")
    bandwidth = (roofs.read_before + roofs.read_after) / 2
    return Ratio(moved, float(view.launch_seconds[decode].sum()) * bandwidth)


def necessary_prefill_flops(view: RepeatView, facts: CellFacts) -> float:
    """FLOPs that the new tokens of the prefill-only launches in W needed.

    Position p attends to p + 1 tokens; the head is needed once a prompt, for its last position.
    """
    low, high = new_positions(view)
    use = view.row_in & np.isin(view.row_phase, PREFILL)
    a, b = low[use], high[use]
    turns = view.tables["turns"]
    ends = (b > a) & (b == turns["prompt_tokens"][view.row_turn[use]])
    attended = (b * (b + 1) - a * (a + 1)) // 2
    return float(
        costs.prefill_flops(
            _config(facts), int((b - a).sum()), int(attended.sum()), int(ends.sum())
        )
    )


def mfu(view: RepeatView, facts: CellFacts, roofs: Roofs | None) -> Ratio:
    """Necessary FLOPs over (device seconds x dense rate) of the prefill-only launches."""
    prefill = view.launch_in & np.isin(view.tables["launches"]["phase"], PREFILL)
    if not prefill.any():
        return null("no_prefill_launches")
    if facts.config is None:
        return null("no_model_config")
    if roofs is None or roofs.matmul_before is None or roofs.matmul_after is None:
        return null("no_probe")
    if _drifted(roofs.matmul_before, roofs.matmul_after):
        return null("roof_unsteady")
    rate = (roofs.matmul_before + roofs.matmul_after) / 2
    seconds = float(view.launch_seconds[prefill].sum())
    return Ratio(necessary_prefill_flops(view, facts), seconds * rate)


def _groups(trace: Trace, sessions: Ints) -> tuple[Ints, Ints]:
    """Group and shared prefix of each session's run id: groups of different passes are different,
    and so are ids unknown to the trace."""
    known = {s.id: (s.group, s.shared_prefix_tokens) for s in trace.sessions}
    groups = 1 + max((group for group, _ in known.values()), default=0)
    unique, inverse = np.unique(sessions, return_inverse=True)
    pairs = []
    for run, own, number in zip(
        unique.tolist(), trace_ids(trace, unique), pass_numbers(trace, unique), strict=True
    ):
        group, shared = known.get(int(own), (-1, 0))
        pairs.append((group + int(number) * groups, shared) if group >= 0 else (-1 - run, 0))
    table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return table[inverse, 0], table[inverse, 1]


def _drifted(before: float, after: float) -> bool:
    low, high = min(before, after), max(before, after)
    return low <= 0 or (high - low) / low > ROOF_DRIFT


def _config(facts: CellFacts) -> ModelConfig:
    if facts.config is None:
        raise ValueError("the cell has no model configuration")
    return facts.config
