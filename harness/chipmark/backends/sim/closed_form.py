"""What a trace costs on a simulated system, computed from the trace and constants alone.

Written without the engine, so that `chipmark validate --closed-form` checks one by the other.

A turn with prompt P, output n and r tokens found in KV computes positions r .. P - 1 as prefill
and P .. P + n - 2 as decode (the last output token is computed with the next prompt). Position p
attends to p + 1 tokens. r is the context the session has in KV already (all but its last output
token), or, for a first prompt, what the prefix rule gives:

    share   n_cached, cut to whole pages        (paged)
    copy    n_cached                            (slots: at token grain)
    none    0

each at most P - 1. It assumes that nothing is evicted and that sessions start in trace order.
"""

from __future__ import annotations

from dataclasses import dataclass

from chipmark.backends.sim.spec import SimSpec
from chipmark.errors import UsageError
from chipmark.workload.session import Session, Turn
from chipmark.workload.trace import Trace


@dataclass(frozen=True, slots=True)
class Expected:
    """Totals of a run. Device seconds without `kv` operations; `window_s` and `energy_j` (over
    the window, idle included) are None where they depend on how sessions are interleaved."""

    prefill_tokens: int
    decode_tokens: int
    reused_tokens: int
    prompt_tokens: int
    prefill_s: float
    decode_s: float
    launches: int | None
    window_s: float | None
    energy_j: float | None

    @property
    def prefix_hit(self) -> float:
        """Prompt tokens not computed, of all prompt tokens."""
        return self.reused_tokens / self.prompt_tokens


def expected(
    trace: Trace,
    spec: SimSpec,
    *,
    concurrency: int,
    max_chunk: int,
    token_budget: int | None = None,
) -> Expected:
    """Totals of `trace` on `spec`, in the scenario `equal_n`.

    At concurrency 1 all figures hold (but for the seconds of prefix copies, which must be 0 for
    the window to be known). Above, without launch overhead, the seconds hold too, because they do
    not depend on batching; the window is their sum if there is no tool time, since then the device
    never waits.

    Raises UsageError where a closed form does not exist: buckets, mixed launches, an open loop,
    resets on pages, or a launch overhead above concurrency 1.
    """
    _check(trace, spec, concurrency)
    budget = max_chunk if token_budget is None else token_budget
    prefill_tokens = decode_tokens = reused = prompts = launches = 0
    prefill_s = decode_s = tool_s = 0.0
    for session in trace.sessions:
        for turn in session.turns:
            found = found_tokens(session, turn, spec)
            fresh = turn.prompt_tokens - found
            whole_steps, rest = divmod(fresh, budget)
            steps = whole_steps * -(-budget // max_chunk) + -(-rest // max_chunk)
            prefill_tokens += fresh
            decode_tokens += turn.n_out - 1
            reused += found
            prompts += turn.prompt_tokens
            launches += steps + turn.n_out - 1
            prefill_s += spec.prefill_s * fresh
            prefill_s += spec.context_s * _attended(found, turn.prompt_tokens)
            decode_s += spec.decode_s * (turn.n_out - 1)
            decode_s += spec.context_s * _attended(
                turn.prompt_tokens, turn.prompt_tokens + turn.n_out - 1
            )
            prefill_s += spec.overhead_s * steps
            decode_s += spec.overhead_s * (turn.n_out - 1)
            if turn.index + 1 < len(session.turns):
                tool_s += turn.tool_time_s
    copies = spec.prefix == "copy" and any(s.shared_prefix_tokens for s in trace.sessions)
    window_known = (concurrency == 1 or tool_s == 0) and not (copies and spec.copy_s)
    window_s = prefill_s + decode_s + tool_s if window_known else None
    energy_j = prefill_s * spec.prefill_w + decode_s * spec.decode_w + tool_s * spec.idle_w
    return Expected(
        prefill_tokens=prefill_tokens,
        decode_tokens=decode_tokens,
        reused_tokens=reused,
        prompt_tokens=prompts,
        prefill_s=prefill_s,
        decode_s=decode_s,
        launches=launches if concurrency == 1 else None,
        window_s=window_s,
        energy_j=energy_j if window_known else None,
    )


def found_tokens(session: Session, turn: Turn, spec: SimSpec) -> int:
    """Leading tokens of a turn's prompt that need not be computed."""
    most = turn.prompt_tokens - 1
    if turn.index == 0:
        if spec.prefix == "none":
            return 0
        ideal = min(turn.n_cached, most)
        return ideal - ideal % spec.page_tokens if spec.prefix == "share" else ideal
    before = session.turns[turn.index - 1]
    return min(before.context_tokens - 1, turn.kept_tokens, turn.n_cached, most)


def _attended(start: int, stop: int) -> int:
    """Sum of p + 1 over the positions start .. stop - 1."""
    return stop * (stop + 1) // 2 - start * (start + 1) // 2


def _check(trace: Trace, spec: SimSpec, concurrency: int) -> None:
    reasons = {
        "an open loop": trace.loop == "open",
        "buckets": bool(spec.batch_buckets or spec.chunk_buckets or spec.context_step),
        "mixed launches": spec.mixed and concurrency > 1,
        "a reset, which may fall inside a shared page": spec.kv == "paged"
        and any(turn.reset for _, turn in trace.walk()),
        "a launch overhead and more than one session at once": spec.overhead_s > 0
        and concurrency > 1,
    }
    for reason, holds in reasons.items():
        if holds:
            raise UsageError(f"sim:{spec.name} has no closed form with {reason}")
