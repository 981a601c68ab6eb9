"""Shares of roofs: `mbu` and `mbu_nameplate` of decode-only launches, `mfu` of prefill-only ones.

Numerators are what the model and the trace make necessary (`chipmark_models.costs`): padding,
over-read, copies and recomputation are not in them, so a backend cannot flatter itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chipmark.codes import NullReason
from chipmark.metrics.events import DECODE, PREFILL, RepeatView
from chipmark.metrics.kv_rows import live_rows
from chipmark.metrics.phases import new_positions
from chipmark.metrics.ratios import Ratio, null
from chipmark.metrics.rawcell import CellFacts, Roofs
from chipmark.workload.trace import Trace
from chipmark_models import costs
from chipmark_models.config import ModelConfig
from chipmark_models.errors import UnknownNameError

ROOF_DRIFT = 0.15
"""Largest relative difference of the probes before and after a repeat (DEFINITIONS, `mbu`)."""

CACHES = 4
"""A working set of fewer last-level caches than this may be read from cache."""


@dataclass(frozen=True, slots=True)
class DecodeReads:
    """What the decode-only launches of a repeat had to move."""

    bytes: float
    """Over all launches; 0 where `reason` says why that is not known."""
    launches: int
    seconds: float
    """Of the device."""
    reason: NullReason | None = None

    @property
    def working_set_bytes(self) -> float:
        """Mean bytes of a launch."""
        return self.bytes / self.launches if self.launches else 0.0


def decode_reads(view: RepeatView, trace: Trace, facts: CellFacts) -> DecodeReads:
    """Necessary bytes and device seconds of the decode-only launches in W."""
    decode = view.launch_in & (view.tables["launches"]["phase"] == DECODE)
    n, seconds = int(decode.sum()), float(view.launch_seconds[decode].sum())
    if not n:
        return DecodeReads(0.0, 0, 0.0, NullReason.NO_DECODE_LAUNCHES)
    if facts.config is None:
        return DecodeReads(0.0, n, seconds, NullReason.NO_MODEL_CONFIG)
    try:
        return DecodeReads(necessary_decode_bytes(view, trace, facts), n, seconds)
    except UnknownNameError:
        return DecodeReads(0.0, n, seconds, NullReason.PRECISION_UNKNOWN)


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


def mbu(reads: DecodeReads, roofs: Roofs | None) -> Ratio:
    """Necessary bytes over (device seconds x probed read bandwidth) of the decode-only launches.

    A share above 1 is left as it is here: `derive` judges the repeats together.
    """
    if reads.reason is not None:
        return null(reads.reason)
    if roofs is None or roofs.read_before is None or roofs.read_after is None:
        return null(NullReason.NO_PROBE)
    if in_cache(reads, roofs):
        return null(NullReason.IN_CACHE)
    if _drifted(roofs.read_before, roofs.read_after):
        return null(NullReason.ROOF_UNSTEADY)
    return Ratio(reads.bytes, reads.seconds * (roofs.read_before + roofs.read_after) / 2)


def mbu_nameplate(reads: DecodeReads, facts: CellFacts, roofs: Roofs | None) -> Ratio:
    """The same bytes over the catalogue's bandwidth of the device; null, too, where they may come
    from cache."""
    if reads.reason is not None:
        return null(reads.reason)
    if facts.nameplate_bytes_s is None:
        return null(NullReason.NO_NAMEPLATE)
    if roofs is not None and _below_caches(reads.working_set_bytes, roofs):
        return null(NullReason.IN_CACHE)
    return Ratio(reads.bytes, reads.seconds * facts.nameplate_bytes_s / facts.replicas)


def in_cache(reads: DecodeReads, roofs: Roofs) -> bool:
    """Whether the launches' or the probe's working set is under 4 x the last-level cache.

    The launches' is what they had to move on average, computed here, and what the probe was
    asked for where that is smaller. False where the size of the cache is not known.
    """
    wanted = reads.working_set_bytes if roofs.wanted_bytes is None else roofs.wanted_bytes
    return _below_caches(min(reads.working_set_bytes, wanted, roofs.read_bytes), roofs)


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
        return null(NullReason.NO_PREFILL_LAUNCHES)
    if facts.config is None:
        return null(NullReason.NO_MODEL_CONFIG)
    if roofs is None or roofs.matmul_before is None or roofs.matmul_after is None:
        return null(NullReason.NO_PROBE)
    if _drifted(roofs.matmul_before, roofs.matmul_after):
        return null(NullReason.ROOF_UNSTEADY)
    rate = (roofs.matmul_before + roofs.matmul_after) / 2
    seconds = float(view.launch_seconds[prefill].sum())
    return Ratio(necessary_prefill_flops(view, facts), seconds * rate)


def _below_caches(n_bytes: float, roofs: Roofs) -> bool:
    return roofs.llc_bytes is not None and n_bytes < CACHES * roofs.llc_bytes


def _drifted(before: float, after: float) -> bool:
    low, high = min(before, after), max(before, after)
    return low <= 0 or (high - low) / low > ROOF_DRIFT


def _config(facts: CellFacts) -> ModelConfig:
    if facts.config is None:
        raise ValueError("the cell has no model configuration")
    return facts.config
