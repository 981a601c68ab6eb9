"""Stored records under today's definitions: metrics derived anew, and what that changed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chipmark.errors import ChipmarkError
from chipmark.results.record import Record
from chipmark.results.store import Skipped, load_record
from chipmark.results.write import write_recomputed

SAME_REL = 1e-9
"""Sums may be taken in another order by another NumPy; nothing else counts as no change."""


@dataclass(frozen=True, slots=True)
class MetricChange:
    """A metric whose value differs."""

    metric: str
    old: float | None
    """None where it is null."""
    new: float | None
    old_reason: str
    """Code of the null; "" for a number, and for a metric that the old record does not have."""
    new_reason: str

    @property
    def relative(self) -> float | None:
        """(new - old) / old; None where one of them is null or the old one is 0."""
        if self.old is None or self.new is None or self.old == 0:
            return None
        return (self.new - self.old) / self.old


@dataclass(frozen=True, slots=True)
class Recomputed:
    """A record and the one that was written from its raw files."""

    old: Record
    new: Record
    changes: tuple[MetricChange, ...]
    unchanged: int
    """Number of metrics with the same result."""


def recompute(folders: list[Path], out_dir: Path) -> Iterator[Recomputed | Skipped]:
    """Each record in turn, written anew under `out_dir`; one that cannot be is Skipped, with its
    reason, and the others are done all the same."""
    for folder in folders:
        try:
            old = load_record(folder)
            new = load_record(write_recomputed(out_dir, old))
        except ChipmarkError as error:
            yield Skipped(folder, error.message)
        except OSError as error:
            yield Skipped(folder, str(error))
        else:
            found = changes(old, new)
            names = set(old.metrics.values) | set(new.metrics.values)
            yield Recomputed(old, new, found, len(names) - len(found))


def changes(old: Record, new: Record) -> tuple[MetricChange, ...]:
    """What differs between two records' metrics, in the order of the new one's."""
    a, b = old.metrics, new.metrics
    found = [
        MetricChange(
            name,
            a.values.get(name),
            b.values.get(name),
            a.null_reasons.get(name, ""),
            b.null_reasons.get(name, ""),
        )
        for name in dict.fromkeys((*b.values, *a.values))
    ]
    return tuple(change for change in found if not _same(change))


def _same(change: MetricChange) -> bool:
    if change.old is None or change.new is None:
        return change.old is change.new and change.old_reason == change.new_reason
    return math.isclose(change.old, change.new, rel_tol=SAME_REL, abs_tol=1e-12)
