"""What the engine itself costs per step, measured with the real clock over a null system."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from chipmark.engine.contract import PHASES, Backend, LoadSpec
from chipmark.engine.loop import run
from chipmark.engine.plan import RunPlan
from chipmark.workload.scale import Scale
from chipmark.workload.session import Session, Turn
from chipmark.workload.trace import Trace

PROMPT_TOKENS = 1024
"""Context at which decode is measured, the median of the quick scale's first prompts."""

VOCAB_SIZE = 1024


@dataclass(frozen=True, slots=True)
class OverheadRow:
    """Engine seconds (planning, bookkeeping, logging; not submit and wait) per decode step."""

    sessions: int
    steps: int
    engine_s_median: float
    engine_s_p95: float


def measure_overhead(
    backend: Callable[[], Backend], sessions: Sequence[int] = (1, 8, 64), *, n_out: int = 400
) -> list[OverheadRow]:
    """Decode `n_out` tokens in each of N sessions, for every N.

    `backend` makes a null system, `lambda: SimBackend("null")`; its steps are not counted. Steps
    that also had prompts are left out.
    """
    return [_measure(backend(), n, n_out) for n in sessions]


def _measure(backend: Backend, n: int, n_out: int) -> OverheadRow:
    context = PROMPT_TOKENS + n_out
    loaded = backend.load(
        LoadSpec(
            model={},
            precision="fp32",
            n_seqs=n,
            max_context=context,
            kv_tokens=n * (context + 16),
            max_chunk=PROMPT_TOKENS * n,
        )
    )
    result = run(backend, _trace(n, n_out), RunPlan(caps=loaded.caps, concurrency=n))
    backend.close()
    launches, steps = result.tables["launches"], result.tables["steps"]
    other = launches["step"][launches["phase"] != PHASES.index("decode")]
    engine_s = steps["engine_s"][~np.isin(steps["step"], other)]
    return OverheadRow(
        sessions=n,
        steps=int(engine_s.size),
        engine_s_median=float(np.median(engine_s)),
        engine_s_p95=float(np.quantile(engine_s, 0.95)),
    )


def _trace(n: int, n_out: int) -> Trace:
    """N sessions of one turn; prompts of different lengths, so that blocks do not fill up in
    step, nor outputs end together."""
    sessions = []
    for number in range(n):
        prompt = PROMPT_TOKENS - number % 16
        ids = np.random.Generator(np.random.Philox(number)).integers(
            0, VOCAB_SIZE, prompt + n_out, dtype=np.int32
        )
        turn = Turn(0, prompt, prompt, 0, n_out, 0, prompt)
        sessions.append(Session(number, number, 0, None, ids, (turn,)))
    return Trace(tuple(sessions), VOCAB_SIZE, "overhead", Scale(), 0, "closed")
