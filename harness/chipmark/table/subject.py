"""What of a record is asked for after its sheet was made: a twentieth of it.

A table over very many records holds this of each, and not the record.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from chipmark.metrics.rawcell import Scenario
from chipmark.results.manifest import Slo, WorkloadId
from chipmark.results.record import Record

OF_EVENTS = ("total_tok_s", "prefill_tok_s", "decode_tok_s", "goodput_turns_s", "goodput_tok_s")
"""Rates whose noise is that of the repeats alone; joules have the meter's error, and the capacity
the spread of its estimates, in their intervals."""

_Part = TypeVar("_Part", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Subject:
    """A record in a table. Two of them are the same record only where they are one object."""

    id: str
    path: Path
    scenario: Scenario
    workload: WorkloadId
    slo: Slo
    unit: str
    """The chip's unit."""
    meter_scope: str | None
    """None without a meter."""
    meter_source: str | None
    """None without a meter."""
    details: Mapping[str, Any]
    """`metrics.details`."""
    repeats: tuple[Mapping[str, float | int | None], ...]
    """OF_EVENTS of each repeat, and whether it is `complete`."""


def subject_of(record: Record) -> Subject:
    """The subject of a record."""
    m = record.manifest
    return Subject(
        id=record.id,
        path=record.path,
        scenario=m.scenario,
        workload=shared(m.workload),
        slo=shared(m.slo),
        unit=m.chip.unit,
        meter_scope=None if m.meter is None else m.meter.scope,
        meter_source=None if m.meter is None else m.meter.source,
        details=record.metrics.details,
        repeats=tuple(
            {name: repeat[name] for name in ("complete", *OF_EVENTS) if name in repeat}
            for repeat in record.metrics.per_repeat
        ),
    )


@lru_cache(maxsize=1024)
def shared(part: _Part) -> _Part:
    """The same value, of equal ones as one object: many cells do the same work."""
    return part
