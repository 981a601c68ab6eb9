"""Everything that is known of a cell before its child starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from chipmark.cell.parity import parity_trace
from chipmark.cell.settings import RunOptions
from chipmark.cell.settle import PickMeters
from chipmark.cell.suite import CellPlan
from chipmark.cell.workloads import ModelInUse
from chipmark.chips.contract import ChipIdentity
from chipmark.codes import NullReason
from chipmark.meters.pick import Picked
from chipmark.results.manifest import ModelId, Note
from chipmark.workload.trace import Trace
from chipmark_models.precision import precision_named


@dataclass(frozen=True, slots=True)
class CellInputs:
    """Everything that is known of a cell before its child starts."""

    plan: CellPlan
    trace: Trace
    model: ModelId
    in_use: ModelInUse | None
    """None for a simulated device, which has no weights."""
    chip: ChipIdentity
    meters: Picked
    """Chip and meters are settled once the child has reported which card it computes on."""
    repeats: int
    settings: RunOptions = field(default_factory=RunOptions)
    notes: tuple[Note, ...] = ()
    pick: PickMeters = lambda _: Picked()
    """The meters of a chip, for a card that is known only after loading."""

    @property
    def no_quality(self) -> NullReason | None:
        """Why quantising can have lost nothing that a text would show; None for real weights that
        were quantised here."""
        if self.in_use is None or not precision_named(self.plan.precision).quantised:
            return NullReason.NOT_QUANTISED
        synthetic = self.in_use.identity.source_kind == "synthetic"
        return NullReason.SYNTHETIC_WEIGHTS if synthetic else None

    def parity_trace(self, context_buckets: Sequence[int]) -> Trace:
        """The trace that parity is checked on, crossing the first of these buckets that it can."""
        rows, chunk = self.plan.concurrency, self.settings.max_chunk
        if self.in_use is None:
            return parity_trace(self.trace.vocab_size, rows=rows, chunk=chunk)
        config = self.in_use.config
        return parity_trace(
            config.vocab_size, tuple(context_buckets), config.max_context, rows=rows, chunk=chunk
        )
