"""Latencies of a record turn by turn, for a paired comparison of two records.

They are read from the tables of turns and windows of the record's repeats (a few kilobytes
each), which it holds anyway, and only when two records are compared turn by turn: a table over
many records does not open them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from chipmark.metrics.rawcell import Scenario
from chipmark.metrics.samples import Kind, Samples, joined, medians, of_trace, turn_samples

PAIRED: tuple[Kind, ...] = ("ttft_append", "ttft_cold", "tpot")
"""What is compared turn by turn."""


def turn_medians(
    folder: Path, complete: Sequence[bool], scenario: Scenario
) -> Mapping[Kind, Samples]:
    """Seconds by (session, turn) of a record's folder, medians over the repeats that are complete
    (and over replicas, which run the same turns). BrokenRecordError where a table is not whole;
    empty samples for a failed cell."""
    from chipmark.results.raw import load_turns, run_folders
    from chipmark.workload.trace import load_trace

    parts = [
        turn_samples(*load_turns(path))
        for index, whole in enumerate(complete)
        if whole
        for path in run_folders(folder / f"repeat-{index}")
    ]
    pooled = {kind: joined([part[kind] for part in parts]) for kind in PAIRED}
    if scenario == "capacity":
        trace = load_trace(folder / "trace.npz")
        pooled = {kind: of_trace(samples, trace) for kind, samples in pooled.items()}
    return {kind: medians(samples) for kind, samples in pooled.items()}
