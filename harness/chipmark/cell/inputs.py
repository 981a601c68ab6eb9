"""Everything that is known of a cell before its child starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from chipmark.cell.parity import parity_trace
from chipmark.cell.settle import PickMeter
from chipmark.cell.suite import CellPlan
from chipmark.cell.workloads import ModelInUse
from chipmark.chips.contract import ChipIdentity
from chipmark.meters.contract import Meter
from chipmark.results.manifest import ModelId, Note, Slo
from chipmark.workload.trace import Trace


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds after which a child is ended. run_s: of one repeat. audit_s: that the oracle may
    take, by its estimate, for the audit of a group of cells; what needs more is pending."""

    load_s: float = 1200.0
    parity_s: float = 900.0
    run_s: float = 3600.0
    grace_s: float = 60.0
    audit_s: float = 120.0


@dataclass(frozen=True, slots=True)
class CellInputs:
    """Everything that is known of a cell before its child starts.

    chip, meter: settled once the child has reported which card it computes on. pick_meter: the
    meter of a chip, for a card that only then is known.
    """

    plan: CellPlan
    trace: Trace
    model: ModelId
    in_use: ModelInUse | None
    chip: ChipIdentity
    meter: Meter | None
    slo: Slo
    repeats: int
    feedback: Literal["forced", "sampled"] = "forced"
    threads: int = 0
    python: str = ""
    max_chunk: int = 256
    limits: Limits = field(default_factory=Limits)
    notes: tuple[Note, ...] = ()
    pick_meter: PickMeter = lambda _: (None, ())

    def parity_trace(self, context_buckets: Sequence[int]) -> Trace:
        """The trace that parity is checked on, crossing the first of these buckets that it can."""
        rows, chunk = self.plan.concurrency, self.max_chunk
        if self.in_use is None:
            return parity_trace(self.trace.vocab_size, rows=rows, chunk=chunk)
        config = self.in_use.config
        return parity_trace(
            config.vocab_size, tuple(context_buckets), config.max_context, rows=rows, chunk=chunk
        )
