"""`Record`: a measured cell as it is stored, to read and not to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from chipmark.results.manifest import Manifest, Note
from chipmark.results.record import Record as StoredRecord

if TYPE_CHECKING:
    from chipmark.metrics.energy_timeline import PowerTimeline
    from chipmark.results.finding import Finding


@dataclass(frozen=True, repr=False)
class Record:
    """One measured cell, read-only.

        record = chipmark.load("runs/quick")[0]
        record.metrics["decode_tok_s"]          # None where it is not known ...
        record.null_reasons.get("decode_tok_s")  # ... and the code of the reason
        record.manifest.chip.name

    Records come from `chipmark.load` and `chipmark.run`. Metrics have the names and units of the
    table's columns (seconds, joules, 1/s); prices and comparisons are the table's matter.
    """

    stored: StoredRecord
    """The document `record.json`, checked."""

    @property
    def id(self) -> str:
        """The name of the record's folder: backend, model, workload, scenario and a hash."""
        return self.stored.id

    @property
    def path(self) -> Path:
        """The folder from which the record was read; its raw event files are in it."""
        return self.stored.path

    @property
    def backend(self) -> str:
        """KIND:DEVICE that computed, as `torch:cpu`."""
        return self.stored.manifest.backend

    @property
    def manifest(self) -> Manifest:
        """What was measured, on what, with which settings."""
        return self.stored.manifest

    @property
    def metrics(self) -> Mapping[str, float | int | None]:
        """Values by metric name; None where there is none, see `null_reasons`."""
        return MappingProxyType(self.stored.metrics.values)

    @property
    def per_repeat(self) -> tuple[Mapping[str, float | int | None], ...]:
        """The metrics of each timed repeat alone, in order."""
        return tuple(MappingProxyType(values) for values in self.stored.metrics.per_repeat)

    @property
    def intervals(self) -> Mapping[str, tuple[float | None, float | None]]:
        """95 % intervals (low, high) by metric name; an end is None where it is open."""
        return MappingProxyType(self.stored.metrics.intervals)

    @property
    def null_reasons(self) -> Mapping[str, str]:
        """The code of the reason for each metric that is None."""
        return MappingProxyType(self.stored.metrics.null_reasons)

    @property
    def details(self) -> Mapping[str, Any]:
        """What is known beyond the metrics, as JSON: among others `energy`, with net values, the
        stated error, joules by phase (`phases`) and by unit of work (`per`)."""
        return MappingProxyType(self.stored.metrics.details)

    @property
    def notes(self) -> tuple[Note, ...]:
        """Remarks with `code` and `text`: those of the run, then those of the metrics."""
        return (*self.stored.manifest.notes, *self.stored.metrics.notes)

    @property
    def parity(self) -> str:
        """Whether logits agreed with the oracle before the run: pass, fail or unchecked."""
        return self.stored.manifest.parity.verdict

    @property
    def audit(self) -> str:
        """Whether the timed run itself agreed with the oracle afterwards."""
        return self.stored.manifest.audit.verdict

    @property
    def failure(self) -> str:
        """Why the cell has no measurement; "" where it has one."""
        failure = self.stored.manifest.failure
        return "" if failure is None else f"{failure.code}: {failure.text}"

    def validate(self) -> list[Finding]:
        """Check the files on disk: checksums, schema, events, and the metrics computed again.

            assert not [f for f in record.validate() if f.severity == "error"]

        Returns:
            Findings with severity, code, path and text; empty where all is well.
        """
        from chipmark.results.validate import validate_record

        return validate_record(self.path)

    def power_timelines(self) -> tuple[PowerTimeline, ...]:
        """Watts of every meter over the time of each repeat, with its phases.

            line = record.power_timelines()[0]
            line.series[0].time_s, line.series[0].power_w   # s from the window's start; NaN: a gap
            [(mark.start_s, mark.end_s, mark.phase) for mark in line.phases]

        Returns:
            One timeline a repeat; its `series` are empty where nothing was metered.

        Raises:
            BrokenRecordError: a raw file of the record is not whole.
        """
        from chipmark.results.power_timeline import power_timelines

        return power_timelines(self.stored)

    def __repr__(self) -> str:
        return f"Record({self.id!r})"
