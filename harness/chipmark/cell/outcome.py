"""What a cell came out as, as its record is assembled from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from chipmark.cell.inputs import CellInputs
from chipmark.cell.protocol import LoadAnswer
from chipmark.results.manifest import (
    AuditResult,
    CapacityResult,
    Note,
    ParityResult,
    QualityResult,
    SweepPoint,
)


@dataclass(frozen=True, slots=True)
class CellOutcome:
    """A measured or failed cell; its raw files are in its folder."""

    inputs: CellInputs
    """With the chip and the meter that the loaded process settled."""
    loaded: LoadAnswer | None
    """None where the cell failed before it had loaded."""
    parity: ParityResult
    quality: QualityResult
    audit: AuditResult
    capacity: CapacityResult | None
    sweep: tuple[SweepPoint, ...]
    concurrency: int
    """N of the repeats: in the capacity scenario, the one that the sweep found."""
    replicas: int
    """Engines that ran at once, N in all."""
    repeats_done: int
    failure: Note | None
    notes: tuple[Note, ...]
    peak_rss_bytes: int
    """Largest resident memory of the child; 0 where it reported none."""
    peak_device_bytes: int | None = None
    """Most of the device's own memory in use after a run; None where nothing tells."""
    launches: Mapping[str, int] = field(default_factory=dict)
    """Launches since the load by phase and by how they reached the device."""
