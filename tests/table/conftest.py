from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chipmark.metrics.derive import derive, nothing
from chipmark.metrics.rawcell import RawCell, RepeatData, Roofs
from chipmark.results.manifest import Manifest
from chipmark.results.raw import facts_of
from chipmark.results.record import Record, metrics_of

MakeRecord = Callable[..., Record]


@pytest.fixture
def make_record(rawcells: ModuleType) -> MakeRecord:
    """A record of the cell of `tests/rawcells.py` in memory; `slow` multiplies its times."""

    def make(
        slow: float = 1.0, spread: float = 0.002, watts: float = 20.0, **changes: Any
    ) -> Record:
        manifest = Manifest.model_validate(rawcells.manifest(**changes))
        derived = nothing("cell_failed")
        if manifest.status == "done":
            repeats = []
            for index, factor in enumerate((1.0, 1 + spread, 1 - spread)):
                events = rawcells.tables(slow * factor, 100.0 + 10 * index)
                bounds = (float(events["window"][c][0]) for c in ("start_s", "end_s"))
                source = manifest.meter.source if manifest.meter else "counter"
                constant = source in ("declared", "assumed")
                kind = rawcells.constant_power if constant else rawcells.counter
                roofs = Roofs(10**6, 2e6, 2e6, 1e6, 1e6, 1000)
                repeats.append(RepeatData(events, kind(watts, *bounds), roofs))
            derived = derive(RawCell(facts_of(manifest), rawcells.trace(), tuple(repeats)))
        name = f"{manifest.backend}-{slow}-{manifest.scenario}"
        return Record(
            schema="chipmark.record/2",
            id=name,
            manifest=manifest,
            metrics=metrics_of(derived),
            files={},
            self_sha256="",
            path=Path(name),
        )

    return make
