"""The columns of the table that a simulated run must have, by plain loops over what it did."""

from __future__ import annotations

import math
from collections.abc import Sequence

from chipmark.backends.sim.spec import SimSpec
from chipmark.closed_form.bytes_and_flops import decode_bytes, prefill_flops
from chipmark.closed_form.power import phase_joules, window_joules
from chipmark.closed_form.stepping import TurnRun, WholeRun, stepped
from chipmark.errors import UsageError
from chipmark.results.manifest import Manifest, Slo
from chipmark.workload.trace import Trace

_BUS_BYTES_OF_A_ROW = 4 + 4 + 8
"""int32 in, int32 and two float32 out."""

LEAST_FOR_P95 = 59
LEAST_FOR_P99 = 299


def expected_columns(
    trace: Trace, spec: SimSpec, manifest: Manifest, origins_s: Sequence[float]
) -> dict[str, float | None]:
    """Expected values by column; None where the definition gives none.

    origins_s: the device's clock when the window of each repeat began. Raises UsageError where
    there is no closed form (see `stepping.stepped`; the scenario `capacity` has none).
    """
    run = expected_run(trace, spec, manifest)
    values: dict[str, float | None] = {}
    values |= _rates(run, trace)
    values |= _latencies(run)
    values |= _service(run, trace, manifest.slo)
    values |= _cache(run)
    if manifest.model.config:
        values |= _roofs(run, spec, manifest.model.config)
    joules = [window_joules(run, spec, origin) for origin in origins_s]
    values["sessions"] = float(len(trace.sessions) * len(origins_s))
    unit = _of_unit(values, manifest.replicas)
    whole = manifest.chip.used == manifest.chip.of
    return unit | _energy(run, trace, spec, sum(joules) / len(joules), manifest.replicas, whole)


def expected_phases(
    trace: Trace, spec: SimSpec, manifest: Manifest, origins_s: Sequence[float]
) -> dict[str, float]:
    """Expected joules over all repeats of `prefill`, `decode`, `kv` and `idle`; raises as
    `expected_columns`."""
    run = expected_run(trace, spec, manifest)
    each = [phase_joules(run, spec, origin) for origin in origins_s]
    return {name: math.fsum(joules[name] for joules in each) for name in each[0]}


def expected_run(trace: Trace, spec: SimSpec, manifest: Manifest) -> WholeRun:
    """The run of each replica; UsageError where there is no closed form."""
    if manifest.scenario != "equal_n":
        raise UsageError("the closed form is that of the scenario equal_n")
    if manifest.load is None:
        raise UsageError("the cell was not loaded, so its chunk size is not known")
    return stepped(
        trace,
        spec,
        clients=manifest.concurrency // manifest.replicas,
        max_chunk=int(manifest.load.caps["max_chunk"]),
    )


def _of_unit(values: dict[str, float | None], replicas: int) -> dict[str, float | None]:
    """Dies next to each other, each with a run of its own: what is counted or done in a second is
    so often there; what a turn, a launch or a step takes, and shares, stay."""
    more = ("prefill_tok_s", "decode_tok_s", "total_tok_s", "goodput_turns_s", "goodput_tok_s")
    summed = (*more, "sessions_per_hour", "sessions")
    return {
        name: value * replicas if name in summed and value is not None else value
        for name, value in values.items()
    }


def _rates(run: WholeRun, trace: Trace) -> dict[str, float | None]:
    decode = [launch for launch in run.launches if launch.kind == "decode"]
    decoded = sum(len(launch.rows) for launch in decode)
    n_new = sum(turn.n_new for _, turn in trace.walk())
    n_out = sum(turn.n_out for _, turn in trace.walk())
    prefill_s = _seconds(run, "prefill") + _seconds(run, "kv")
    return {
        "decode_rows": decoded / len(decode) if decode else None,
        "prefill_tok_s": n_new / prefill_s,
        "decode_tok_s": decoded / _seconds(run, "decode") if decode else None,
        "total_tok_s": (n_new + n_out) / run.window_s,
        "host_s_per_step": 0.0,
        "idle_s_per_step": 0.0,
        "bus_bytes_per_step": _bus_bytes(run),
    }


def _bus_bytes(run: WholeRun) -> float | None:
    """A token to the device, its id and two logits back, for each row of steps that decode only."""
    others = {launch.step for launch in run.launches if launch.kind != "decode"}
    alone = [launch for launch in run.launches if launch.step not in others]
    if not alone:
        return None
    rows = sum(len(launch.rows) for launch in alone)
    return rows * _BUS_BYTES_OF_A_ROW / len({launch.step for launch in alone})


def _latencies(run: WholeRun) -> dict[str, float | None]:
    first = {True: list[float](), False: list[float]()}
    per_token, gaps = list[float](), list[float]()
    for turn in run.turns:
        first[turn.cold].append(turn.seen_s[0] - turn.sent_s)
        if len(turn.seen_s) > 1:
            per_token.append(_tpot(turn))
        gaps += [b - a for a, b in zip(turn.seen_s, turn.seen_s[1:], strict=False)]
    sessions = _session_seconds(run)
    return {
        "ttft_p50_s": _quantile(first[False], 0.50),
        "ttft_p95_s": _quantile(first[False], 0.95),
        "ttft_cold_p50_s": _quantile(first[True], 0.50),
        "tpot_p50_s": _quantile(per_token, 0.50),
        "tpot_p95_s": _quantile(per_token, 0.95),
        "itl_p50_s": _quantile(gaps, 0.50),
        "itl_p95_s": _quantile(gaps, 0.95),
        "itl_p99_s": _quantile(gaps, 0.99),
        "session_p50_s": _quantile(sessions, 0.50),
        "session_p95_s": _quantile(sessions, 0.95),
    }


def _service(run: WholeRun, trace: Trace, slo: Slo) -> dict[str, float | None]:
    met = [turn for turn in run.turns if _meets(turn, slo)]
    tokens = sum(turn.turn.n_new + turn.turn.n_out for turn in met)
    scaled = trace.scale.tool_time not in ("0", "1")
    return {
        "slo_attainment": len(met) / len(run.turns),
        "goodput_turns_s": len(met) / run.window_s,
        "goodput_tok_s": tokens / run.window_s,
        "sessions_per_hour": None if scaled else 3600 * len(trace.sessions) / run.window_s,
    }


def _cache(run: WholeRun) -> dict[str, float | None]:
    prompts = sum(turn.turn.prompt_tokens for turn in run.turns)
    return {
        "prefix_hit": sum(turn.found for turn in run.turns) / prompts,
        "prefix_hit_ideal": sum(turn.turn.n_cached for turn in run.turns) / prompts,
        "pad_ratio": 1.0,
    }


def _roofs(run: WholeRun, spec: SimSpec, shape: dict[str, object]) -> dict[str, float | None]:
    decode_s, prefill_s = _seconds(run, "decode"), _seconds(run, "prefill")
    mbu = decode_bytes(run, shape) / (decode_s * spec.read_bytes_s) if decode_s else None
    mfu = prefill_flops(run, shape) / (prefill_s * spec.matmul_flop_s)
    return {
        "mbu": None if mbu is not None and mbu > 1 else mbu,
        "mfu": None if mfu > 1 else mfu,
    }


def _energy(
    run: WholeRun, trace: Trace, spec: SimSpec, joules: float, replicas: int, whole: bool
) -> dict[str, float | None]:
    """joules: of one die. A card that was used in part has none."""
    if not whole:
        return {"power_w": None, "tok_per_joule": None, "joule_per_session": None}
    tokens = sum(turn.n_new + turn.n_out for _, turn in trace.walk())
    card = joules * replicas + spec.card_w * run.window_s
    return {
        "power_w": card / run.window_s,
        "tok_per_joule": tokens * replicas / card,
        "joule_per_session": card / (len(trace.sessions) * replicas),
    }


def _seconds(run: WholeRun, kind: str) -> float:
    return sum(launch.end_s - launch.start_s for launch in run.launches if launch.kind == kind)


def _tpot(turn: TurnRun) -> float:
    return (turn.seen_s[-1] - turn.seen_s[0]) / (len(turn.seen_s) - 1)


def _meets(turn: TurnRun, slo: Slo) -> bool:
    limit = slo.ttft_cold_s if turn.cold else slo.ttft_append_s
    in_time = turn.seen_s[0] - turn.sent_s <= limit
    return in_time and (len(turn.seen_s) == 1 or _tpot(turn) <= slo.tpot_s)


def _session_seconds(run: WholeRun) -> list[float]:
    spans: dict[int, tuple[float, float]] = {}
    for turn in run.turns:
        start, end = spans.get(turn.session.id, (math.inf, 0.0))
        spans[turn.session.id] = (min(start, turn.sent_s), max(end, turn.seen_s[-1]))
    return [end - start for start, end in spans.values()]


def _quantile(samples: Sequence[float], q: float) -> float | None:
    """The smallest sample with at least q of all at or below it; tails need samples enough."""
    least = {0.95: LEAST_FOR_P95, 0.99: LEAST_FOR_P99}.get(q, 1)
    if len(samples) < least:
        return None
    ordered = sorted(samples)
    return next(x for i, x in enumerate(ordered, 1) if i >= q * len(ordered) - 1e-9)
