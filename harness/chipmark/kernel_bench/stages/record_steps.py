"""Stage 3: records of whole models, as many cells of `end_to_end.toml` as the time allows."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from chipmark.kernel_bench.stages.contract import Asked, Part, Stage, StageStep

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

_RESERVE_S = 5.0
"""For the last packing, out of the call's time."""


def records(asked: Asked) -> Iterator[Part]:
    """One part for each call: the cells whose records it added, and what each measured. It is named
    after the number of records that were there, so that the next call's is another."""
    results = Path("results")
    before = frozenset(results.glob("*/*/record.json"))
    name = f"after {len(before)} records"
    if name not in asked.have and asked.until_s - time.monotonic() >= LEAST_S:
        yield name, partial(_measured, asked, results, before)


def _measured(asked: Asked, results: Path, before: frozenset[Path]) -> Mapping[str, Any] | None:
    from chipmark.kernel_bench.end_to_end import main

    words = ["--pack", str(asked.folder / "records.tar.gz")]
    if wheels := asked.parameters.get("wheels"):
        words += ["--wheels", str(wheels)]
    left_s = asked.until_s - time.monotonic() - _RESERVE_S
    code = main([*words, "--budget-s", f"{left_s:.0f}"])
    added = sorted(set(results.glob("*/*/record.json")) - before)
    if not added and code in (2, 3):
        return None
    return {"exit_code": code, "cells": [figures(path) for path in added]}


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
        "audit": manifest["audit"]["verdict"],
        **{name: values.get(name) for name in named},
    }
