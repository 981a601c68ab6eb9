"""Parity: the small trace that goes through the timed path, and its reference by the oracle.

The trace has three sessions of unequal lengths (a ragged batch), the second of which shares a
prefix with the first (a copy or shared pages); each has two turns (KV kept between them); and one
crosses a context bucket while it decodes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chipmark.backends.sim.cells import context_hash
from chipmark.cell.logits import LogitRows, load_logits
from chipmark.cell.parent import ChildProcess
from chipmark.workload.scale import Scale
from chipmark.workload.session import Session, Turn
from chipmark.workload.trace import Trace, save_trace
from chipmark_models.precision import QUANTISED
from chipmark_models.weights.quantise import RULE

_DEFAULT_CROSSING = 256
_LARGEST_CROSSING = 1024  # the oracle's time grows with it; a bucket beyond is not crossed
_SHARED = 20
_ORACLE_LIMIT_S = 1800.0

Wanted = tuple[tuple[int, int], ...]
"""(session, turn) pairs whose sampled rows are compared."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The oracle's logits, or why there are none."""

    rows: LogitRows | None
    reason: str = ""


def parity_trace(
    vocab_size: int, context_buckets: Sequence[int] = (), max_context: int | None = None
) -> Trace:
    """The trace of this module for a vocabulary, crossing the first bucket that it can.

    Token ids are raw bits of a counter-based generator. With `max_context` under the crossing the
    trace crosses nothing and stays inside it.
    """
    limit = max_context or 1 << 30
    fits = [b for b in context_buckets if 96 <= b <= _LARGEST_CROSSING and b + 16 <= limit]
    crossing = min(fits, default=_DEFAULT_CROSSING)
    longest = min(crossing, limit - 16)
    # (first input, its output, second input, its output); the longest decodes over the crossing.
    shapes = [(37, 4, 9, 3), (53, 3, 21, 4), (max(48, longest - 26), 3, 20, 8)]
    generator = np.random.Philox(key=20_260_101)
    raw = generator.random_raw(4 * (longest + 256))
    ids = ((raw >> np.uint64(20)) % np.uint64(vocab_size - vocab_size // 16)).astype(np.int32)
    ids += np.int32(vocab_size // 16)
    sessions, at = [], 0
    first = ids[:_SHARED]
    for number, (new0, out0, new1, out1) in enumerate(shapes):
        total = new0 + out0 + new1 + out1
        tokens = ids[at : at + total].copy()
        at += total
        shared = _SHARED if number < 2 else 0
        if shared:
            tokens[:shared] = first
        cached = _SHARED if number == 1 else 0
        context = new0 + out0
        turns = (
            Turn(0, new0, new0 - cached, cached, out0, 0, new0),
            Turn(1, context + new1, new1, context, out1, context, context + new1),
        )
        group = 0 if shared else 1
        sessions.append(Session(number, group, shared, None, tokens, turns))
    return Trace(tuple(sessions), vocab_size, "parity", Scale(), 0, "closed")


def all_turns(trace: Trace) -> Wanted:
    """Every (session, turn) of a trace."""
    return tuple((session.id, turn.index) for session, turn in trace.walk())


def capture_turn(trace: Trace) -> tuple[int, int] | None:
    """The turn of a timed run to compare afterwards: of the later ones (with a cached prefix) the
    one with the shortest context, which is the least for the oracle; None without such a turn."""
    later = [(t.prompt_tokens, s.id, t.index) for s, t in trace.walk() if t.index > 0]
    return min(later)[1:] if later else None


def sampled_positions(session: Session, turn: Turn) -> NDArray[np.int64]:
    """Positions of a turn's context whose logits are sampled: the prompt's last to the last but
    one output token."""
    return np.arange(turn.prompt_tokens - 1, turn.prompt_tokens - 1 + turn.n_out)


def closed_rule_errors(trace: Trace, measured: LogitRows) -> str:
    """What contradicts the closed rule of a simulated device: at every sampled position the id
    `(context_hash >> 33) % vocabulary` has the largest logit. "" where nothing does."""
    best = {
        tuple(key): int(row.argmax())
        for key, row in zip(measured.keys.tolist(), measured.logits, strict=True)
    }
    wrong = 0
    for session, turn in trace.walk():
        context = np.concatenate([session.prompt(turn), session.output(turn)])
        for position in sampled_positions(session, turn).tolist():
            expected = (context_hash(context[: position + 1]) >> 33) % trace.vocab_size
            wrong += best.get((session.id, turn.index, position)) != expected
    return f"{wrong} sampled ids are not those of their contexts" if wrong else ""


def reference_file(
    cache: Path,
    source_hash: str,
    precision: str,
    trace: Trace,
    wanted: Wanted,
    *,
    rounded: str = "",
) -> Path:
    """Where the oracle's logits lie: by weights, precision, trace and turns."""
    stored = f"{precision} {RULE}" if precision in QUANTISED else precision
    stored += f" rounded {rounded}" if rounded else ""
    text = json.dumps([1, source_hash, stored, trace.hash, wanted])
    return cache / "reference" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"


def reference(
    cache: Path,
    model: dict[str, Any],
    source_hash: str,
    precision: str,
    trace: Trace,
    wanted: Wanted,
    scratch: Path,
    *,
    rounded: str = "",
) -> Reference:
    """The oracle's logits from the cache folder, else computed by a process of its own.

    rounded: with activations rounded so (`logits.tolerance_of` says what for). A file under
    `reference_file` may also have been carried here from another machine.
    """
    path = reference_file(cache, source_hash, precision, trace, wanted, rounded=rounded)
    if path.is_file():
        return Reference(load_logits(path))
    if importlib.util.find_spec("torch") is None:
        return Reference(None, "the oracle needs torch, which is not installed here")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(parents=True, exist_ok=True)
    save_trace(trace, scratch / "trace.npz")
    spec = {
        "model": model,
        "trace": str(scratch / "trace.npz"),
        "wanted": [list(pair) for pair in wanted],
        "out": str(path),
        "rounded": rounded,
    }
    with ChildProcess(json.dumps(spec), scratch, module="chipmark.cell.oracle_child") as child:
        child.ask("compute", _ORACLE_LIMIT_S)
        child.close()
    return Reference(load_logits(path))
