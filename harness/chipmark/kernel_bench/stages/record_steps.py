"""Stage 3: records of whole models, as many cells of `end_to_end.toml` as the time allows."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from chipmark.errors import CellsLeftError
from chipmark.kernel_bench.stages.contract import MAIN, Asked, Part, Stage, StageStep

LEAST_S = 90.0
"""Seconds under which no call is begun: the smallest cell takes about as long."""

STEPS = (
    StageStep(
        key="records",
        stage=Stage.RECORDS,
        about="records of whole models into results/, by value",
        estimate_s=LEAST_S,
        limit_s=600.0,
        work="chipmark.kernel_bench.stages.record_steps:records",
        parameters={"wheels": ""},
        repeats_after_failure=True,
    ),
)
"""wheels: the folder of `chipmark kernels wheels`, "" where nothing is missing."""

LEFT = "cells left"
"""Name of the part that fails while there are any."""

_RESERVE_S = 5.0
"""For the last packing, out of the call's time."""


def records(asked: Asked) -> Iterator[Part]:
    """A part for each call: the cells whose records it added, and what each measured. It is named
    after the number of records before it, so that the next call's has another name. While cells
    are left a part fails, so that a later call asks again."""
    results = Path("results")
    before = frozenset(results.glob("*/*/record.json"))
    codes: list[int] = []
    if asked.until_s - time.monotonic() >= LEAST_S:
        yield f"after {len(before)} records", partial(_measured, asked, results, before, codes)
    if codes != [0]:
        yield LEFT, partial(_left, codes)


def _measured(
    asked: Asked, results: Path, before: frozenset[Path], codes: list[int]
) -> Mapping[str, Any] | None:
    """Measure, append the exit code to `codes`, and return the figures of the records added."""
    from chipmark.kernel_bench.end_to_end import main

    words = ["--pack", str(asked.folder / "records.tar.gz")]
    if wheels := asked.parameters.get("wheels"):
        words += ["--wheels", str(wheels)]
    left_s = asked.until_s - time.monotonic() - _RESERVE_S
    codes.append(main([*words, "--budget-s", f"{left_s:.0f}"]))
    added = sorted(set(results.glob("*/*/record.json")) - before)
    if not added:
        return None
    cells = [figures(path) for path in added]
    done = sum(cell["status"] == "done" for cell in cells)
    return {"exit_code": codes[0], "cells": cells, MAIN: f"{done} of {len(cells)} cells done"}


def _left(codes: list[int]) -> None:
    why = f"chipmark kernels models ended with exit code {codes[0]}" if codes else "no time"
    raise CellsLeftError(f"cells are left ({why})", "the same call again continues with them")


def figures(path: Path) -> dict[str, Any]:
    """What a line says of a record, by the `record.json` alone."""
    document = json.loads(path.read_text(encoding="utf-8"))
    manifest, values = document["manifest"], document["metrics"].get("values", {})
    named = ("decode_tok_s", "prefill_tok_s", "total_tok_s", "mbu", "mbu_nameplate", "mfu")
    return {
        "record": document["id"],
        "model": manifest["model"]["name"],
        "workload": manifest["workload"]["name"],
        "concurrency": manifest["concurrency"],
        "status": manifest["status"],
        "parity": manifest["parity"]["verdict"],
        "audit": manifest.get("audit", {}).get("verdict", "none"),
        **{name: values.get(name) for name in named},
    }
