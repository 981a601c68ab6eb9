from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chipmark.engine.events import Table
from chipmark.metrics.derive import derive, nothing
from chipmark.metrics.rawcell import RawCell, RepeatData, Roofs
from chipmark.results.manifest import Manifest
from chipmark.results.raw import facts_of
from chipmark.results.record import Record, metrics_of

MakeRecord = Callable[..., Record]

BUILT_IN = {
    "module": "chipmark.backends.sim.backend", "distribution": "chipmark", "version": "0",
    "sha256": "", "built_in": True,
}  # fmt: skip


@pytest.fixture
def make_record(rawcells: ModuleType) -> MakeRecord:
    """A record of the cell of `tests/rawcells.py` in memory, audited and with its sweep's end.

    `slow` multiplies its times, `edit` changes the event tables of each repeat in place.
    """

    def make(
        slow: float = 1.0,
        spread: float = 0.002,
        watts: float = 20.0,
        repeats: int = 3,
        edit: Callable[[dict[str, Table]], None] | None = None,
        **changes: Any,
    ) -> Record:
        given: dict[str, Any] = {"repeats": repeats}
        if changes.get("scenario") == "capacity":
            given["capacity"] = {"concurrency": 1, "cut": False}
        if str(changes.get("backend", "")).startswith("sim:"):
            given["plugins"] = {"backend": BUILT_IN}
        manifest = Manifest.model_validate(rawcells.manifest(**given | changes))
        derived = nothing("cell_failed")
        if manifest.status == "done":
            data = []
            for index, factor in enumerate((1.0, 1 + spread, 1 - spread)[:repeats]):
                events = rawcells.tables(slow * factor, 100.0 + 1000 * index)
                simulated = str(changes.get("backend", "")).startswith("sim:")
                events["window"]["simulated"][:] = simulated
                if edit is not None:
                    edit(events)
                bounds = (float(events["window"][c][0]) for c in ("start_s", "end_s"))
                source = manifest.meter.source if manifest.meter else "counter"
                constant = source in ("declared", "assumed")
                kind = rawcells.constant_power if constant else rawcells.counter
                faster = max(1.0, 1 / slow)  # of a faster device, and so are its roofs
                read, matmul = 2e6 * faster, 1e6 * faster
                roofs = Roofs(10**6, read, read, matmul, matmul, 1000)
                data.append(RepeatData(events, kind(watts, *bounds), roofs))
            # Two sessions are too few for what the capacity scenario asks of its window and of
            # its turns; a table takes the numbers as they stand.
            facts = replace(facts_of(manifest), scenario="equal_n")
            derived = derive(RawCell(facts, rawcells.trace(), tuple(data)))
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
