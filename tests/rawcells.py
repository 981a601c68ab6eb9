"""A small cell made by hand, without engine or backend, so that its numbers can be worked out.

Two sessions of group 0 share a prefix of 8 tokens, two turns each, one after the other:

    session turn  prompt cached new out   found   prefill rows   decode rows
       0     0      10      0   10   4        0        10             3
       0     1      17     14    3   2       13         4             1
       1     0      12      8    4   3        8         4             2
       1     1      20     15    5   1       14         6             0

A prefill launch takes 10 ms a token, a decode launch 5 ms; before each launch the host works 1 ms
while the device stands still. So W = 24 x 0.010 + 6 x 0.005 + 10 x 0.001 = 0.280 s for
22 new and 10 output tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from chipmark.engine.contract import PHASES
from chipmark.engine.events import COLUMNS, Table, save_events
from chipmark.meters.contract import PowerSamples
from chipmark.results.manifest import Manifest
from chipmark.workload.scale import Scale
from chipmark.workload.trace import Session, Trace, Turn, save_trace

T0 = 100.0
PREFILL_S, DECODE_S, HOST_S = 0.010, 0.005, 0.001
WINDOW_S = 0.280

TINY = {
    "name": "hand", "family": "llama", "vocab_size": 100, "hidden_size": 8,
    "intermediate_size": 16, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "head_dim": 4,
    "rms_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": None, "rope_interleaved": False,
    "tied_embeddings": True, "qkv_bias": False, "attn_out_bias": False, "mlp_bias": False,
    "qk_norm": False, "max_context": 128, "sliding_window": None, "bos_id": 1, "eos_ids": [2],
}  # fmt: skip


def trace(scale: Scale | None = None) -> Trace:
    def session(number: int, turns: list[tuple[int, int, int, int]]) -> Session:
        built, position = [], 0
        for index, (own, cached, new, out) in enumerate(turns):
            built.append(Turn(index, cached + new, new, cached, out, position, position + own))
            position += own + out
        tokens = np.concatenate([np.arange(8), 10 + number + np.arange(position - 8)])
        return Session(number, 0, 8, None, (tokens % 100).astype(np.int32), tuple(built))

    return Trace(
        sessions=(
            session(0, [(10, 0, 10, 4), (3, 14, 3, 2)]),
            session(1, [(12, 8, 4, 3), (5, 15, 5, 1)]),
        ),
        vocab_size=100,
        name="hand",
        scale=scale or Scale("1/16", "1/16", "0"),
        seed=1,
        loop="closed",
    )


def tables(slow: float = 1.0, start_s: float = T0) -> dict[str, Table]:
    """Events of the cell above; `slow` multiplies every time."""
    rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in COLUMNS}
    now = start_s
    phase_of = {name: index for index, name in enumerate(PHASES)}

    def launch(session: int, turn: int, phase: str, at: int, n: int) -> None:
        nonlocal now
        number = len(rows["launches"])
        begin = now + HOST_S * slow
        end = begin + (DECODE_S if phase == "decode" else PREFILL_S * n) * slow
        half = HOST_S * slow / 2
        rows["steps"].append((number, half, now + half, begin, begin, end, 0, 0, 0))
        rows["launches"].append(
            (number, number, phase_of[phase], 1, n, 1, n, at + n, begin, end, half, n)
        )
        rows["rows"].append((number, session, turn, at, n, 7, 3.0, 1.0))
        now = end

    for session in trace().sessions:
        begin_s = now
        for turn in session.turns:
            found = turn.n_cached - (1 if turn.index else 0)
            sent = now
            kind = "prefill_append" if turn.index else "prefill_cold"
            launch(session.id, turn.index, kind, found, turn.prompt_tokens - found)
            first = now
            for k in range(turn.n_out - 1):
                launch(session.id, turn.index, "decode", turn.prompt_tokens + k, 1)
            rows["turns"].append(
                (session.id, turn.index, 0, int(turn.index == 0), 0, sent, sent, first, now,
                 turn.prompt_tokens, turn.n_new, turn.n_cached, turn.n_out,
                 turn.prompt_tokens - found, found, 0, 0)
            )  # fmt: skip
        rows["sessions"].append((session.id, 0, 0, begin_s, now, len(session.turns)))
    rows["window"].append((start_s, now, 1, start_s, now, 0))
    return {name: table(name, records) for name, records in rows.items()}


def table(name: str, records: list[tuple[Any, ...]]) -> Table:
    """Tuples in the order of COLUMNS as a table."""
    columns = list(zip(*records, strict=True)) if records else [()] * len(COLUMNS[name])
    return {
        column: np.array(values).astype(dtype)
        for (column, dtype), values in zip(COLUMNS[name].items(), columns, strict=True)
    }


def constant_power(watts: float, start_s: float = T0, end_s: float = T0 + WINDOW_S) -> PowerSamples:
    return PowerSamples(np.array([start_s, end_s]), np.full(2, np.nan), np.array([watts, watts]))


def counter(watts: float, start_s: float, end_s: float, n: int = 200) -> PowerSamples:
    """A perfect counter of a constant power, read n times from before to after the window."""
    margin = 0.1 * (end_s - start_s)
    time = np.linspace(start_s - margin, end_s + margin, n)
    return PowerSamples(time, 50.0 + watts * (time - time[0]), np.full(n, np.nan))


def manifest(**changes: Any) -> dict[str, Any]:
    """`cell.json` of the cell above as a dictionary; `a__b=value` changes a nested field."""
    work = trace()
    document: dict[str, Any] = {
        "schema": "chipmark.cell/2",
        "created": "2026-11-22T20:00:00Z",
        "chipmark_version": "0.1.0",
        "status": "done",
        "backend": "torch:cpu",
        "chip": {
            "name": "hand-chip", "vendor": "Hand", "device_name": "hand", "unit": "card",
            "used": 1, "of": 1,
        },
        "workload": {
            "name": "hand", "hash": work.hash, "scale": ["1/16", "1/16", "0"], "seed": 1,
            "loop": "closed", "sessions": 2, "turns": 4, "n_new": 22, "n_cached": 37, "n_out": 10,
        },
        "model": {
            "name": "hand", "source_kind": "safetensors", "source_hash": "s", "weights_hash": "w",
            "config": dict(TINY),
        },
        "precision": {
            "requested": "fp32", "weights": "fp32", "activation": "fp32", "kv": "fp32",
            "accumulate": "fp32", "class_name": "fp32",
        },
        "scenario": "equal_n",
        "concurrency": 1,
        "cache_policy": {"policy": "hand"},
        "slo": {},
        "load": {
            "load_s": 1.0, "compile_s": 1.0, "weight_bytes": 99_999, "kv_bytes": 1,
            "graph": "plain", "execution": "compiled", "ep_coverage": 1.0, "device": "hand",
            "caps": {"max_chunk": 64},
        },
        "parity": {"verdict": "pass"},
        "meter": {
            "name": "hand", "source": "counter", "scope": "board", "method": "hand",
            "update_period_s": 0.001, "error_rel": 0.02,
        },
        "repeats": 3,
    }  # fmt: skip
    for key, value in changes.items():
        target = document
        *parents, last = key.split("__")
        for parent in parents:
            target = target[parent]
        target[last] = value
    Manifest.model_validate(document)
    return document


PROBES = {
    "read_bytes": 1_000_000, "read_before": 2e6, "read_after": 2e6, "matmul_before": 1e6,
    "matmul_after": 1e6, "llc_bytes": 1000,
}  # fmt: skip


def timing(events: Mapping[str, Table]) -> dict[str, Any]:
    """The parent's clock around the run of these events: 1 ms at each end."""
    entered_s, left_s = (float(events["window"][c][0]) for c in ("entered_s", "left_s"))
    return {
        "sent_s": entered_s - 0.002, "started_s": entered_s - 0.001, "ended_s": left_s + 0.001,
        "answered_s": left_s + 0.002, "complete": True,
        "clock_before": [entered_s - 0.01, entered_s - 0.009, entered_s - 0.008],
        "clock_after": [left_s + 0.008, left_s + 0.009, left_s + 0.01],
    }  # fmt: skip


Slows = tuple[float, ...]


def write_raw(
    folder: Path,
    *,
    slows: Slows = (1.0, 1.01, 0.99),
    power: Callable[[float, float], PowerSamples] | None = lambda a, b: counter(20.0, a, b),
    probes: Mapping[str, Any] | None = PROBES,
    **changes: Any,
) -> Path:
    """A whole raw folder as a cell leaves it; one repeat for each of `slows`."""
    folder.mkdir(parents=True)
    document = manifest(**{"repeats": len(slows), **changes})
    (folder / "cell.json").write_text(json.dumps(document))
    (folder / "child.log").write_text("loaded\n")
    if document["status"] == "failed":
        return folder
    save_trace(trace(), folder / "trace.npz")
    for index, slow in enumerate(slows):
        repeat = folder / f"repeat-{index}"
        repeat.mkdir()
        events = tables(slow, T0 + 10 * index)
        save_events(repeat / "events.npz", events)
        start_s, end_s = (float(events["window"][c][0]) for c in ("start_s", "end_s"))
        if power is not None:
            samples = power(start_s, end_s)
            with (repeat / "power.npz").open("wb") as file:
                np.savez(
                    file, time_s=samples.time_s, energy_j=samples.energy_j, power_w=samples.power_w
                )
        if probes is not None:
            (repeat / "probes.json").write_text(json.dumps(dict(probes)))
        (repeat / "timing.json").write_text(json.dumps(timing(events)))
    return folder
