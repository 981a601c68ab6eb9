"""Runs every shape that the clock may meet, once before it, so that none is compiled on it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from chipmark.backends.ort.graph_plan import GraphPlan
from chipmark.backends.ort.launch_rows import LaunchRows
from chipmark.backends.ort.runner import Runner

_FREE_CHUNK = 32
"""Tokens of the one prompt that is run where a provider takes any number of them."""


def warm(runner: Runner, plan: GraphPlan) -> list[dict[str, Any]]:
    """Run every shape: decode at each number of sequences and each bucket of the context, a
    prompt's chunk at each bucket of chunk and context; growth from each bucket to the next, and
    copies between slots there. Leaves the cache empty and as small as it was.

    Where a dimension is free there is no end of shapes: one chunk is run, and the first capacity.
    Returns what each shape took when it was first run, opening its session included: batch, chunk,
    context and seconds.
    """
    first, took = runner.cache.capacity, _Took(runner)
    last = plan.n_slots - 1
    chunks = sorted(set(plan.chunk_buckets or (min(plan.max_chunk, _FREE_CHUNK),)))
    for capacity in plan.context_buckets or (first,):
        runner.ensure_capacity(min(capacity, plan.slot_rows))
        for chunk in chunks:
            for start in _starts(runner, plan):
                took.prompt(start, min(chunk, plan.max_context - start))
        for n in range(1, plan.n_seqs + 1):
            for _ in range(2):
                took.run(_rows(list(range(n)), 1, 1))
        for source, target in ((0, last), (last, 0), (0, min(1, last))):
            runner.cache.copy(source, target, 1)
    for slot in range(plan.n_slots):
        runner.cache.drop(slot)
    runner.shrink(first)
    runner.take_traffic()
    return took.shapes


def _starts(runner: Runner, plan: GraphPlan) -> list[int]:
    """Starts of a prompt's chunk, one for each context that it may be run at."""
    buckets = (1, *plan.context_buckets) if plan.context_buckets else ()
    return [0, *(bucket + 1 for bucket in buckets if bucket + 3 <= runner.cache.capacity)]


class _Took:
    """What each shape took when it was first run."""

    def __init__(self, runner: Runner) -> None:
        self.shapes: list[dict[str, Any]] = []
        self._runner = runner
        self._seen: set[tuple[int, int, int]] = set()

    def prompt(self, start: int, length: int) -> None:
        """Run a prompt's chunk, unless its shape was run already or the slot has no room for it."""
        runner = self._runner
        length = min(length, runner.cache.capacity - start)
        if length < 2 or runner.prefill_shape(start, length) in self._seen:
            return
        rows = _rows([0], start, length)
        if runner.rows_needed(rows) <= runner.cache.capacity:
            self.run(rows)

    def run(self, rows: LaunchRows) -> None:
        """Run a launch, and sample it."""
        started = time.perf_counter()
        self._runner.sampled(self._runner.run(rows))
        if self._runner.shape not in self._seen:
            self._seen.add(self._runner.shape)
            sizes = dict(zip(("batch", "chunk", "context"), self._runner.shape, strict=True))
            self.shapes.append(sizes | {"seconds": time.perf_counter() - started})


def _rows(slots: list[int], start: int, length: int) -> LaunchRows:
    n = len(slots)
    return LaunchRows(
        slot=np.array(slots, np.int32),
        start=np.full(n, start, np.int32),
        length=np.full(n, length, np.int32),
        tokens=np.zeros(n * length, np.int32),
        sample=np.ones(n, np.bool_),
    )
