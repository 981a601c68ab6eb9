from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from chipmark.cell import parity
from chipmark.cell.logits import LogitRows, distance, load_logits, save_logits, tolerance_of
from chipmark.cell.oracle_child import plan
from chipmark.cell.parity import (
    all_turns,
    capture_turn,
    parity_trace,
    reference,
    reference_file,
    sampled_positions,
)
from chipmark.workload.generate import generate
from chipmark.workload.profile import profile
from chipmark.workload.scale import SCALES
from chipmark_models.weights.prepared import prepare_spec
from chipmark_models.weights.source import WeightRef


def test_parity_trace_is_ragged_has_two_turns_and_a_cached_prefix() -> None:
    trace = parity_trace(512)
    assert len(trace.sessions) == 3
    assert len({s.turns[0].prompt_tokens for s in trace.sessions}) == 3
    assert all(len(s.turns) == 2 and s.turns[1].n_cached > 0 for s in trace.sessions)
    first, second, _ = trace.sessions
    shared = second.turns[0].n_cached
    assert shared == 20
    assert np.array_equal(first.tokens[:shared], second.tokens[:shared])


@pytest.mark.parametrize(("buckets", "crossed"), [((), 256), ((128, 512), 128), ((512, 4096), 512)])
def test_parity_trace_crosses_a_bucket_while_decoding(
    buckets: tuple[int, ...], crossed: int
) -> None:
    trace = parity_trace(512, buckets)
    turn = trace.sessions[2].turns[1]
    assert turn.prompt_tokens < crossed < turn.context_tokens


def test_parity_trace_stays_inside_a_short_context() -> None:
    assert parity_trace(512, (), 120).max_context_tokens <= 120


def test_parity_trace_is_the_same_everywhere() -> None:
    assert parity_trace(49_152).hash == (
        "c1abd58b1e7a5121e611dd6e7a434a497d68a706d9f432daef252e11a2ea0f4b"
    )


def test_captured_turn_has_a_cached_prefix_and_the_shortest_context() -> None:
    trace = generate(profile("agent-code-32k"), SCALES["quick"], 0, 4, 512)
    found = capture_turn(trace)
    assert found is not None
    turn = next(s for s in trace.sessions if s.id == found[0]).turns[found[1]]
    assert turn.index > 0
    later = [t.prompt_tokens for _, t in trace.walk() if t.index > 0]
    assert turn.prompt_tokens == min(later)


def test_oracle_reads_one_sequence_a_session_and_every_sampled_row() -> None:
    trace = parity_trace(512)
    keys, sequences, positions = plan(trace, list(all_turns(trace)))
    assert len(sequences) == 3
    assert len(keys) == trace.totals.n_out == sum(len(p) for p in positions)
    for session, sequence, where in zip(trace.sessions, sequences, positions, strict=True):
        assert np.array_equal(sequence, session.tokens[:-1])
        assert where[0] == session.turns[0].prompt_tokens - 1
        assert where[-1] == len(sequence) - 1


def test_oracle_reads_a_turn_after_a_reset_by_itself() -> None:
    trace = generate(profile("agent-code-128k"), SCALES["quick"], 0, 30, 512)
    session, turn = next((s, t) for s, t in trace.walk() if t.reset)
    keys, sequences, positions = plan(trace, [(session.id, 0), (session.id, turn.index)])
    assert len(sequences) == 2
    assert np.array_equal(sequences[1][: turn.prompt_tokens], session.prompt(turn))
    assert positions[1].tolist() == sampled_positions(session, turn).tolist()
    assert keys[-1] == (session.id, turn.index, turn.prompt_tokens + turn.n_out - 2)


def test_reference_carried_here_needs_no_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = parity_trace(512)
    wanted = all_turns(trace)
    path = reference_file(tmp_path, "abc", "fp32", trace, wanted)
    path.parent.mkdir()
    rows = LogitRows(np.zeros((2, 3), np.int32), np.ones((2, 512), np.float32))
    save_logits(path, rows)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = reference(tmp_path, {}, "abc", "fp32", trace, wanted, tmp_path / "s")
    assert found.rows is not None
    other = reference(tmp_path, {}, "abc", "bf16", trace, wanted, tmp_path / "s")
    assert other.rows is None
    assert "torch" in other.reason


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
def test_reference_is_computed_once_and_is_the_oracles(tmp_path: Path) -> None:
    from chipmark_models.oracle import Oracle
    from chipmark_models.weights.prepared import open_any

    spec = prepare_spec(WeightRef("synthetic", "tiny", None, 0), "fp32", tmp_path)
    weights = open_any(spec)
    trace = parity_trace(512, (), 120)
    wanted = ((1, 0), (1, 1))
    scratch = tmp_path / "scratch"
    first = reference(tmp_path, spec.to_dict(), weights.source_hash, "fp32", trace, wanted, scratch)
    assert first.rows is not None
    path = parity.reference_file(tmp_path, weights.source_hash, "fp32", trace, wanted)
    assert np.array_equal(load_logits(path).logits, first.rows.logits)
    session = trace.sessions[1]
    full = Oracle(weights.config, weights.float32).logits([session.tokens])[0]
    for (_, _, position), row in zip(first.rows.keys.tolist(), first.rows.logits, strict=True):
        assert np.abs(full[position] - row).max() < 1e-4


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
def test_rounded_activations_have_a_reference_of_their_own(tmp_path: Path) -> None:
    from chipmark_models.weights.prepared import open_any

    spec = prepare_spec(WeightRef("synthetic", "tiny", None, 0), "fp8", tmp_path)
    source_hash = open_any(spec).source_hash
    trace = parity_trace(512, (), 120)
    plain, rounded, bf16 = (
        reference(
            tmp_path, spec.to_dict(), source_hash, "fp8", trace, ((1, 0),), tmp_path / f"r-{r}",
            rounded=r,
        ).rows
        for r in ("", "fp8", "bf16")
    )  # fmt: skip
    assert plain is not None
    assert rounded is not None
    assert bf16 is not None
    assert 0.003 < distance(plain, bf16, 5e-2).rms_rel < 0.03  # 8 bits of mantissa, a few layers
    own = distance(plain, rounded, 5e-2).rms_rel
    assert 0.05 < own < 0.5  # e4m3 has 3 bits of mantissa
    assert tolerance_of("fp8", own) == 1.5 * own
    assert tolerance_of("fp8", 0.01) == tolerance_of("w8a16") == 5e-2


@pytest.mark.parametrize(
    ("activation", "rounding"),
    [
        ("fp32", ""),
        ("fp32, bf16 into decode attention", ""),
        ("fp32, bf16 into products and decode attention", "bf16"),
        ("bf16", "bf16"),
        ("bf16, fp8 into products of over 64 rows", "fp8"),
        ("fp16", "fp16"),
        ("fp8", "fp8"),
    ],
)
def test_the_rounding_is_that_of_what_products_take(activation: str, rounding: str) -> None:
    from chipmark_models.precision import product_type, rounding_of

    assert rounding_of(activation) == rounding
    assert product_type(activation) == (rounding or "fp32")


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
def test_every_rounding_that_is_named_can_be_done() -> None:
    from chipmark_models.precision import ROUNDED
    from chipmark_models.rounding import ROUNDINGS

    assert set(ROUNDED) == set(ROUNDINGS)
