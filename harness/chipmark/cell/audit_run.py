"""Audits done: places drawn, the oracle asked at them, and each cell judged.

Cells that ran one trace on one model share the places and so the oracle's forwards. What the
oracle cannot do within the budget, by its own rate so far, is left `pending` with what a later
`chipmark audit` needs.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chipmark.cell.audit import Draw, TurnKey, draw, rows_of_longest
from chipmark.cell.contexts import Keys, stream_flops, streams
from chipmark.cell.logits import (
    LogitRows,
    rms_rel_of_rows,
    row_statistics,
    select,
)
from chipmark.cell.reference import NO_TORCH, References, Weights, oracle_here
from chipmark.engine.eventlog import DONE
from chipmark.engine.events import Table
from chipmark.engine.plugins import simulated_factory
from chipmark.errors import ChipmarkError
from chipmark.results.audit import AuditData, Seen, judge, seen_at
from chipmark.results.manifest import AuditResult, ReferenceId
from chipmark.results.tolerance import SIM_TOLERANCE, tolerance_of
from chipmark.workload.trace import Trace
from chipmark_models.config import ModelConfig
from chipmark_models.precision import rounding_of

_OVERRUN = 4.0  # times the estimate after which the oracle is ended
_MIN_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """Logits of the longest turn as the backend gave them in one repeat.

    keys (m, 3), id (m,), margin (m,): every row, its first id, and first minus second logit over
    the rms of the row centred. kept: the rows of which `logits` are here (all, or those that a
    pending audit kept). repeat: which one it was.
    """

    keys: Keys
    id: NDArray[np.int32]
    margin: NDArray[np.float32]
    repeat: int
    kept: NDArray[np.int32]
    logits: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A cell to be audited: events of its repeats, what it computed with, what was captured."""

    repeats: tuple[Mapping[str, Table], ...]
    class_name: str
    activation: str
    captured: Captured | None


@dataclass(frozen=True, slots=True, eq=False)
class Audited:
    """An audit's verdict and arrays."""

    result: AuditResult
    data: AuditData


def captured_of(rows: LogitRows, repeat: int) -> Captured | None:
    """What a capture file holds; None where it holds nothing."""
    if not len(rows.keys):
        return None
    # A session that is run again in the same repeat is captured again: its first time counts.
    order = np.unique(rows.keys, axis=0, return_index=True)[1]
    logits = rows.logits[order]
    found = row_statistics(logits)
    return Captured(
        rows.keys[order],
        found.id,
        (found.top2[:, 0] - found.top2[:, 1]) / found.scale,
        repeat,
        np.arange(len(logits), dtype=np.int32),
        logits,
    )


def captured_in(data: AuditData) -> Captured | None:
    """What a pending audit kept of a capture."""
    if not len(data.captured_keys):
        return None
    return Captured(
        data.captured_keys,
        data.captured_id,
        data.captured_margin,
        int(data.captured_repeat[0]),
        data.compared,
        data.captured_logits,
    )


def audit_by_oracle(
    subjects: Sequence[Subject],
    trace: Trace,
    weights: Weights,
    config: ModelConfig,
    references: References,
    budget_s: float,
) -> list[Audited]:
    """Audit cells that ran `trace` on the same weights; each by its own tolerance.

    budget_s: seconds that the oracle may take for all of them. Nothing is raised for an oracle
    that fails: what it did not answer is pending.
    """
    seed = os.urandom(16)
    if not oracle_here():
        return [_pending(subject, seed, NO_TORCH) for subject in subjects]
    roundings = sorted({rounding_of(s.activation) for s in subjects} - {""})
    try:
        rate = references.oracle(weights, trace).rate(trace)
        drawn = draw(
            trace,
            _done(subjects),
            _captured_rows(subjects),
            seed,
            lambda keys: stream_flops(config, streams(trace, keys)),
            budget_s * rate / (1 + len(roundings)),
        )
        if drawn is None:
            need_s = _least_s(trace, config, subjects, rate) * (1 + len(roundings))
            text = f"the oracle needs about {need_s:.0f} s here, of {budget_s:.0f} s"
            return [_pending(subject, seed, text) for subject in subjects]
        limit_s = max(_MIN_LIMIT_S, _OVERRUN * drawn.flops / rate)
        plain = references.drawn(weights, trace, drawn.keys, "", limit_s)
        assert plain.rows is not None
        own = {}
        for name in roundings:
            rounded = references.drawn(weights, trace, drawn.keys, name, limit_s).rows
            assert rounded is not None
            own[name] = float(rms_rel_of_rows(plain.rows, rounded, drawn.keys).max())
    except (ChipmarkError, OSError) as error:
        text = error.message if isinstance(error, ChipmarkError) else str(error)
        return [_pending(subject, seed, f"the oracle: {text}") for subject in subjects]
    return [
        _judged(
            subject,
            drawn,
            plain.rows,
            _tolerance(subject, own),
            plain.id,
        )
        for subject in subjects
    ]


def _tolerance(subject: Subject, own: Mapping[str, float]) -> float:
    rounding = rounding_of(subject.activation)
    return tolerance_of(subject.class_name, own.get(rounding), rounding)


def audit_by_rule(subject: Subject, trace: Trace) -> Audited:
    """Audit a simulated device: its ids are a function of the whole context, so no oracle is
    asked, and nothing is captured."""
    seed = os.urandom(16)
    done = _done([subject])
    drawn = draw(trace, done, np.zeros((0, 3), np.int32), seed, lambda _: 0.0, 1.0)
    if drawn is None:
        return Audited(AuditResult(verdict="fail", reason="no turn was done"), _empty(seed))
    ids = closed_rule_ids(trace, drawn.keys)
    seen = seen_at(subject.repeats, drawn.keys)
    n = len(drawn.keys)
    data = AuditData(
        seed=seed,
        keys=drawn.keys,
        oracle_id=ids,
        oracle_top2=np.tile(np.array([2.0, 1.0], np.float32), (n, 1)),
        scale=np.ones(n, np.float32),
        **_seen_fields(replace(seen, top2=np.full_like(seen.top2, np.nan))),
    )
    return Audited(judge(data, SIM_TOLERANCE, top2_required=False), data)


def closed_rule_ids(trace: Trace, keys: Keys) -> NDArray[np.int32]:
    """Ids that a simulated device samples at these places, by its closed rule."""
    ids = np.zeros(len(keys), np.int32)
    where = {tuple(key): at for at, key in enumerate(keys.tolist())}
    for stream in streams(trace, keys):
        expected = simulated_factory().expected_ids(stream.tokens, trace.vocab_size)
        for key in stream.keys.tolist():
            ids[where[tuple(key)]] = expected[key[2]]
    return ids


def _judged(
    subject: Subject,
    drawn: Draw,
    oracle: LogitRows,
    tolerance: float,
    reference: ReferenceId | None,
) -> Audited:
    found = row_statistics(select(oracle, drawn.keys))
    captured = subject.captured
    compared = np.zeros(0, np.int32)
    rms_rel = np.zeros(0, np.float32)
    if captured is not None:
        wanted = {tuple(key) for key in drawn.longest.tolist()}
        compared = np.array(
            [i for i in captured.kept.tolist() if tuple(captured.keys[i].tolist()) in wanted],
            np.int32,
        )
        mine = LogitRows(captured.keys[captured.kept], captured.logits)
        rms_rel = rms_rel_of_rows(oracle, mine, captured.keys[compared])
    data = AuditData(
        seed=drawn.seed,
        keys=drawn.keys,
        oracle_id=found.id,
        oracle_top2=found.top2,
        scale=found.scale,
        **_seen_fields(seen_at(subject.repeats, drawn.keys)),
        **_captured_fields(subject),
        compared=compared,
        compared_rms_rel=rms_rel,
    )
    result = judge(data, tolerance, top2_required=True)
    if captured is None and result.verdict == "pass" and len(drawn.longest):
        result = result.model_copy(
            update={"verdict": "fail", "reason": "logits of the longest turn were not given"}
        )
    return Audited(result.model_copy(update={"reference": reference}), data)


def _pending(subject: Subject, seed: bytes, reason: str) -> Audited:
    """Nothing compared yet: of the capture, what a later audit compares is kept."""
    captured = subject.captured
    data = _empty(seed)
    if captured is not None:
        drawn = rows_of_longest(captured.keys[captured.kept], random.Random(seed))
        places = {tuple(key) for key in drawn.tolist()}
        held = [
            i
            for i, row in enumerate(captured.kept.tolist())
            if tuple(captured.keys[row].tolist()) in places
        ]
        fields: dict[str, Any] = {
            **_captured_fields(subject),
            "compared": captured.kept[held],
            "captured_logits": captured.logits[held],
        }
        data = replace(data, **fields)
    return Audited(AuditResult(verdict="pending", reason=reason), data)


def _empty(seed: bytes) -> AuditData:
    none = np.zeros(0, np.int32)
    two = np.zeros((0, 2), np.float32)
    return AuditData(
        seed=seed,
        keys=np.zeros((0, 3), np.int32),
        oracle_id=none,
        oracle_top2=two,
        scale=np.zeros(0, np.float32),
        seen_repeat=none,
        seen_place=none,
        seen_id=none,
        seen_top2=two,
    )


def _seen_fields(seen: Seen) -> dict[str, NDArray[Any]]:
    return {
        "seen_repeat": seen.repeat,
        "seen_place": seen.place,
        "seen_id": seen.id,
        "seen_top2": seen.top2,
    }


def _captured_fields(subject: Subject) -> dict[str, NDArray[Any]]:
    """Ids and margins of the captured turn, and the ids of it in every repeat."""
    captured = subject.captured
    if captured is None:
        return {}
    seen = seen_at(subject.repeats, captured.keys)
    return {
        "captured_keys": captured.keys,
        "captured_id": captured.id,
        "captured_margin": captured.margin,
        "captured_repeat": np.array([captured.repeat], np.int32),
        "longest_seen_repeat": seen.repeat,
        "longest_seen_row": seen.place,
        "longest_seen_id": seen.id,
    }


def _done(subjects: Sequence[Subject]) -> list[TurnKey]:
    """Turns that any of the cells has done in any repeat."""
    found: set[TurnKey] = set()
    for subject in subjects:
        for tables in subject.repeats:
            turns = tables["turns"]
            done = turns["status"] == DONE
            columns = (turns[name][done].tolist() for name in ("session", "turn"))
            found |= set(zip(*columns, strict=True))
    return sorted(found)


def _captured_rows(subjects: Sequence[Subject]) -> Keys:
    """Rows of the longest turn that can be compared in every cell that captured it."""
    kept = [s.captured.keys[s.captured.kept] for s in subjects if s.captured is not None]
    if not kept:
        return np.zeros((0, 3), np.int32)
    common = set.intersection(*({tuple(key) for key in keys.tolist()} for keys in kept))
    return np.array(sorted(common), np.int32).reshape(-1, 3)


def _least_s(trace: Trace, config: ModelConfig, subjects: Sequence[Subject], rate: float) -> float:
    """Seconds of the least that an audit computes: the captured turn, else one turn."""
    rows = _captured_rows(subjects)
    if not len(rows):
        session, turn = min(trace.walk(), key=lambda pair: pair[1].context_tokens)
        rows = np.array([(session.id, turn.index, turn.prompt_tokens - 1)], np.int32)
    return stream_flops(config, streams(trace, rows)) / rate
