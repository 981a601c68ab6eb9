"""Driving the engine over a simulated system, and checking what its events say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from chipmark.backends.sim.backend import SimBackend
from chipmark.backends.sim.cells import context_hash
from chipmark.backends.sim.spec import SPECS
from chipmark.engine.contract import PHASES, Caps, LoadSpec
from chipmark.engine.loop import _Run
from chipmark.engine.plan import RunPlan, RunResult
from chipmark.workload.passes import run_session
from chipmark.workload.trace import Trace


@dataclass(frozen=True)
class Driven:
    result: RunResult
    trace: Trace
    caps: Caps
    plan: RunPlan
    whole: bool
    backend: SimBackend

    @property
    def turns(self):
        return self.result.tables["turns"]

    def turn(self, session: int, index: int) -> dict[str, Any]:
        table = self.turns
        (at,) = np.flatnonzero((table["session"] == session) & (table["turn"] == index))
        return {name: column[at].item() for name, column in table.items()}

    def phase_tokens(self, phase: str) -> int:
        launches = self.result.tables["launches"]
        return int(launches["n_tokens"][launches["phase"] == PHASES.index(phase)].sum())


def drive_sim(
    trace: Trace,
    name: str = "golden",
    *,
    spec: dict[str, Any] | None = None,
    caps: dict[str, Any] | None = None,
    n_seqs: int | None = None,
    kv_tokens: int | None = None,
    reserved_slots: int = 1,
    max_chunk: int = 64,
    max_context: int | None = None,
    **plan: Any,
) -> Driven:
    plan.setdefault("concurrency", 1)
    backend = SimBackend(replace(SPECS[name], **(spec or {})))
    longest = max_context or trace.max_context_tokens
    sequences = n_seqs or plan["concurrency"]
    loaded = backend.load(
        LoadSpec(
            model={"vocab_size": trace.vocab_size},
            precision="fp32",
            n_seqs=sequences,
            max_context=longest,
            kv_tokens=kv_tokens or 4 * sequences * longest + 1000,
            max_chunk=max_chunk,
            reserved_slots=reserved_slots,
            options={"caps": caps or {}},
        )
    )
    run_plan = RunPlan(caps=loaded.caps, clock=backend.clock, **plan)
    running = _Run(backend, trace, run_plan)
    result = running.run()
    alive = any(session is not None for session in running._live.sessions)
    return Driven(result, trace, loaded.caps, run_plan, alive or running._kv.whole(), backend)


def check_sampled_ids(driven: Driven) -> int:
    """Every id that was sampled is the one of exactly this context; how many there were."""
    trace, rows = driven.trace, driven.result.tables["rows"]
    sessions = {run: run_session(trace, run) for run in np.unique(rows["session"]).tolist()}
    contexts = {
        (run, t.index): np.concatenate([s.prompt(t), s.output(t)])
        for run, s in sessions.items()
        for t in s.turns
    }
    seen = np.flatnonzero(rows["sampled"] >= 0)
    for at in seen:
        context = contexts[int(rows["session"][at]), int(rows["turn"][at])]
        end = int(rows["start"][at] + rows["n_tokens"][at])
        expected = (context_hash(context[:end]) >> 33) % trace.vocab_size
        assert rows["sampled"][at] == expected
    return int(seen.size)


def check_accounts(driven: Driven) -> None:
    """Counters of turns agree with rows, budgets hold, nothing is lost or computed twice."""
    tables, trace = driven.result.tables, driven.trace
    rows, turns, launches = tables["rows"], tables["turns"], tables["launches"]
    sizes = np.bincount(launches["step"], weights=launches["n_tokens"])
    assert sizes.max(initial=0) <= driven.plan.budget
    in_rows = np.bincount(rows["launch"], rows["n_tokens"], minlength=launches["launch"].size)
    assert (in_rows == launches["n_tokens"]).all()
    assert (launches["n_rows"] <= launches["batch_bucket"]).all()
    assert (turns["reused_tokens"] <= turns["n_cached"]).all()
    assert (turns["intended_s"] <= turns["admitted_s"]).all()
    assert (turns["admitted_s"] <= turns["first_token_s"]).all()
    assert (turns["first_token_s"] <= turns["last_token_s"]).all()
    by_id = {session.id: session for session in trace.sessions}
    for at in range(turns["turn"].size):
        session, index = int(turns["session"][at]), int(turns["turn"][at])
        turn = by_id[session].turns[index]
        mine = (rows["session"] == session) & (rows["turn"] == index)
        start, n = rows["start"][mine], rows["n_tokens"][mine]
        computed = int(turns["prefilled_tokens"][at] + turns["refilled_tokens"][at])
        assert n.sum() == computed + turn.n_out - 1
        assert (rows["sampled"][mine] >= 0).sum() == turn.n_out
        times = np.zeros(turn.context_tokens, dtype=int)
        for s, length in zip(start, n, strict=True):
            times[s : s + length] += 1
        reused = int(turns["reused_tokens"][at])
        assert (times[reused : turn.context_tokens - 1] >= 1).all()
        assert times[turn.context_tokens - 1] == 0
        again = int((times[reused:] - 1).clip(min=0).sum() + times[:reused].sum())
        assert again <= turns["refilled_tokens"][at]
        if not turns["refilled_tokens"][at]:
            assert times.max() == 1
            assert turns["prefilled_tokens"][at] + reused == turn.prompt_tokens


@pytest.fixture(scope="session")
def drive():
    return drive_sim


@pytest.fixture(scope="session")
def sampled_ids():
    return check_sampled_ids


@pytest.fixture(scope="session")
def accounts():
    return check_accounts
