from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

from chipmark.cell import parity_check
from chipmark.cell.contexts import turn_keys
from chipmark.cell.logits import LogitRows
from chipmark.cell.parity import PARITY_ROWS, all_turns, parity_trace
from chipmark.results.tolerance import tolerance_of


def test_parity_trace_is_ragged_has_two_turns_and_a_cached_prefix() -> None:
    trace = parity_trace(512)
    assert len(trace.sessions) == 3
    assert len({s.turns[0].prompt_tokens for s in trace.sessions}) == 3
    assert all(len(s.turns) == 2 and s.turns[1].n_cached > 0 for s in trace.sessions)
    first, second, _ = trace.sessions
    shared = second.turns[0].n_cached
    assert np.array_equal(first.tokens[:shared], second.tokens[:shared])


@pytest.mark.parametrize("chunk", [64, 256, 1024])
def test_the_shared_prefix_is_longer_than_one_chunk(chunk: int) -> None:
    second = parity_trace(512, chunk=chunk).sessions[1].turns[0]
    assert second.n_cached > chunk
    assert second.n_cached % 16 != 0  # no page ends with it


@pytest.mark.parametrize(("rows", "expected"), [(1, 3), (4, 4), (8, 8), (500, PARITY_ROWS)])
def test_as_many_rows_as_the_cell_run_together(rows: int, expected: int) -> None:
    trace = parity_trace(512, rows=rows)
    assert len(trace.sessions) == expected
    assert len({s.turns[0].prompt_tokens for s in trace.sessions}) == expected
    assert trace.totals.prompt_tokens < 3_000  # what the oracle computes


def test_all_rows_decode_in_one_launch() -> None:
    from chipmark.backends.sim.backend import SimBackend
    from chipmark.engine.contract import PHASES, LoadSpec
    from chipmark.engine.loop import run
    from chipmark.engine.plan import RunPlan

    trace = parity_trace(512, rows=8)
    backend = SimBackend("golden")
    spec = LoadSpec({"vocab_size": 512}, "fp32", 8, 400, 3200, 256)
    caps = backend.load(spec).caps
    launches = run(backend, trace, RunPlan(caps=caps, concurrency=8)).tables["launches"]
    decode = launches["n_rows"][launches["phase"] == PHASES.index("decode")]
    assert decode.max() >= 7


@pytest.mark.parametrize(("buckets", "crossed"), [((), 256), ((128, 512), 128), ((512, 4096), 512)])
def test_parity_trace_crosses_a_bucket_while_decoding(
    buckets: tuple[int, ...], crossed: int
) -> None:
    trace = parity_trace(512, buckets)
    turn = trace.sessions[2].turns[1]
    assert turn.prompt_tokens < crossed < turn.context_tokens


def test_parity_trace_stays_inside_a_short_context() -> None:
    assert parity_trace(512, (), 120, rows=16).max_context_tokens <= 120


def test_parity_trace_is_the_same_everywhere() -> None:
    assert (
        parity_trace(49_152).hash
        == "ca7695d2334f153e759991b7a41ca87747e480596cf37ba954055edb6e9164ca"
    )


def test_every_sampled_row_of_the_trace_is_compared() -> None:
    trace = parity_trace(512)
    keys = turn_keys(trace, all_turns(trace))
    assert len(keys) == trace.totals.n_out
    session, turn = trace.sessions[1], trace.sessions[1].turns[1]
    own = keys[(keys[:, 0] == session.id) & (keys[:, 1] == turn.index)]
    assert own[:, 2].tolist() == list(range(turn.prompt_tokens - 1, turn.context_tokens - 1))


def test_an_own_rounding_distance_decides_alone() -> None:
    assert tolerance_of("fp8", 0.2) == pytest.approx(0.3)
    assert tolerance_of("w4a8", 0.2, "int8 by group") == pytest.approx(0.5)
    assert tolerance_of("16-bit") == 3e-2
    assert tolerance_of("16-bit", 0.002) == pytest.approx(0.003)  # fp16: a tenth of the class's
    assert tolerance_of("16-bit", 0.0) == 1e-3


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
    from chipmark.engine.computed import linear_input_of
    from chipmark_models.precision import product_type, rounding_of

    taken = linear_input_of(activation)
    assert rounding_of(taken) == rounding
    assert product_type(taken) == (rounding or "fp32")


def test_int8_by_group_is_a_rounding_whose_roof_is_that_of_int8() -> None:
    from chipmark.engine.computed import linear_input_of
    from chipmark_models.precision import INT8_BY_GROUP, product_type, rounding_of

    taken = linear_input_of("fp32, int8 by group into products")
    assert rounding_of(taken) == taken == INT8_BY_GROUP
    assert product_type(taken) == "int8"


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
def test_every_rounding_that_is_named_can_be_done() -> None:
    from chipmark_models.precision import ROUNDED
    from chipmark_models.rounding import ROUNDINGS

    assert set(ROUNDED) == set(ROUNDINGS)


def _rows(logits: np.ndarray) -> LogitRows:
    keys = np.array([(0, 0, at) for at in range(len(logits))], np.int32)
    return LogitRows(keys, logits.astype(np.float32))


class _Cell:
    """What `_by_oracle` asks of a measured cell, with the oracle's answers at hand."""

    def __init__(self, activation: str, plain: np.ndarray, rounded: np.ndarray) -> None:
        self.loaded = SimpleNamespace(
            caps=SimpleNamespace(context_buckets=(), max_context=4096),
            precision=SimpleNamespace(activation=activation),
        )
        trace = SimpleNamespace(max_context_tokens=8)
        model = SimpleNamespace(weights_hash="hash")
        self.inputs = SimpleNamespace(parity_trace=lambda buckets: trace, model=model)
        self.class_name, self.notes = "w4a8", []
        self._answers = {"": plain, "int8 by group": rounded, "fp8": rounded}

    def reference(self, trace: object, keys: object, rounding: str = "") -> SimpleNamespace:
        return SimpleNamespace(rows=_rows(self._answers[rounding]), reason="", id=None)


@pytest.mark.parametrize(
    ("activation", "others", "worst", "verdict"),
    [
        ("fp32, int8 by group into products", 0.10, 0.30, "pass"),
        ("fp32, int8 by group into products", 0.10, 0.60, "fail"),  # over 2.5 of the worst
        ("fp32, int8 by group into products", 0.23, 0.23, "fail"),  # over twice the median
        ("bf16, fp8 into products", 0.23, 0.23, "pass"),  # by 1.5 of the worst alone
    ],
)
def test_of_int8_activations_the_median_row_counts_too(
    monkeypatch: pytest.MonkeyPatch, activation: str, others: float, worst: float, verdict: str
) -> None:
    plain = np.random.default_rng(0).standard_normal((9, 400))
    unit = np.random.default_rng(1).standard_normal((9, 400))
    scale = plain.std(1, keepdims=True) / np.sqrt((unit**2).mean(1, keepdims=True))

    def away(most: float, first: float) -> np.ndarray:
        share = np.full((9, 1), most)
        share[0] = first
        moved: np.ndarray = plain + unit * scale * share
        return moved

    keys = _rows(plain).keys
    monkeypatch.setattr(parity_check, "turn_keys", lambda trace, turns: keys)
    monkeypatch.setattr(parity_check, "all_turns", lambda trace: None)
    monkeypatch.setattr(parity_check, "_run", lambda cell, trace, replica: "path")
    monkeypatch.setattr(parity_check, "load_logits", lambda path: _rows(away(others, worst)))
    cell = _Cell(activation, plain, away(0.10, 0.20))
    found = parity_check._by_oracle(cell, 0)  # type: ignore[arg-type]
    assert found.verdict == verdict
    if worst == others and verdict == "fail":
        assert "median rms 2.3" in found.reason
    assert "alone move logits by rms 0.2" in cell.notes[0].text
