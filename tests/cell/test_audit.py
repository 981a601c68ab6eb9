from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from chipmark.cell.audit import PLACES, ROWS_OF_LONGEST, draw, longest_turn
from chipmark.cell.audit_run import Subject, audit_by_rule, captured_of, closed_rule_ids
from chipmark.cell.contexts import Keys, context_of, stream_flops, streams, turn_keys
from chipmark.cell.logits import LogitRows
from chipmark.engine.events import Table, empty_table
from chipmark.results.audit import (
    MIN_CLEAR,
    MIN_PLACES,
    AuditData,
    audit_of_text,
    audit_text,
    judge,
    load_audit,
    save_audit,
    seen_at,
)
from chipmark.workload.generate import generate
from chipmark.workload.profile import profile
from chipmark.workload.scale import SCALES
from chipmark.workload.trace import Trace
from chipmark_models.presets import preset

TRACE = generate(profile("agent-code-32k"), SCALES["quick"], 0, 8, 512)
ALL = [(session.id, turn.index) for session, turn in TRACE.walk()]
LONGEST = longest_turn(TRACE)
assert LONGEST is not None
CAPTURED = turn_keys(TRACE, (LONGEST,))


def _flops(keys: Keys, trace: Trace = TRACE) -> float:
    return stream_flops(preset("tiny"), streams(trace, keys))


def _draw(seed: bytes = b"0" * 16, budget: float = np.inf) -> Any:
    return draw(TRACE, ALL, CAPTURED, seed, _flops, budget)


# Drawing.


def test_the_longest_turn_is_the_one_with_the_longest_context() -> None:
    longest = max(turn.context_tokens for _, turn in TRACE.walk())
    assert len(context_of(TRACE, *LONGEST)) == longest


def test_a_draw_holds_the_longest_turn_every_quarter_and_late_positions() -> None:
    found = _draw()
    keys = found.keys
    assert len(np.unique(keys, axis=0)) == len(keys) >= PLACES
    assert {tuple(k) for k in found.longest.tolist()} <= {tuple(k) for k in keys.tolist()}
    assert {tuple(k) for k in found.longest.tolist()} <= {tuple(k) for k in CAPTURED.tolist()}
    assert 2 <= len(found.longest) <= ROWS_OF_LONGEST
    sessions = np.unique(keys[:, 0])
    assert len(sessions) == len(TRACE.sessions)
    for session in sessions:
        mine = keys[keys[:, 0] == session][:, 2]
        assert (mine >= mine.max() * 3 // 4).mean() > 0.3
    assert found.flops == pytest.approx(_flops(keys))


def test_every_drawn_place_is_one_where_a_token_is_sampled() -> None:
    sampled = {tuple(key) for key in turn_keys(TRACE, tuple(ALL)).tolist()}
    for seed in range(5):
        drawn = _draw(seed.to_bytes(16, "big"))
        assert {tuple(key) for key in drawn.keys.tolist()} <= sampled


def test_places_depend_on_the_seed_alone() -> None:
    assert np.array_equal(_draw(b"a" * 16).keys, _draw(b"a" * 16).keys)
    assert not np.array_equal(_draw(b"a" * 16).keys, _draw(b"b" * 16).keys)


def test_a_budget_leaves_out_sessions_but_not_the_longest_turn() -> None:
    least = _flops(CAPTURED[-1:])
    found = _draw(os.urandom(16), 2.5 * least)
    assert found.flops <= 2.6 * least
    assert LONGEST[0] in found.keys[:, 0]
    assert len(np.unique(found.keys[:, 0])) < len(TRACE.sessions)
    assert _draw(os.urandom(16), 0.5 * least) is None


def test_turns_that_were_not_done_are_not_drawn() -> None:
    done = [key for key in ALL if key[0] < 2]
    found = draw(TRACE, done, np.zeros((0, 3), np.int32), b"0" * 16, _flops, np.inf)
    assert found is not None
    assert set(found.keys[:, 0].tolist()) == {0, 1}
    assert draw(TRACE, [], np.zeros((0, 3), np.int32), b"0" * 16, _flops, np.inf) is None


# Judging.


def _data(n: int = 100, **changes: Any) -> AuditData:
    keys = np.array([(0, 0, i) for i in range(n)], np.int32)
    ids = np.arange(n, dtype=np.int32)
    top = np.tile(np.array([4.0, 2.0], np.float32), (n, 1))
    data = AuditData(
        seed=b"s" * 16,
        keys=keys,
        oracle_id=ids,
        oracle_top2=top,
        scale=np.ones(n, np.float32),
        seen_repeat=np.repeat(np.arange(2, dtype=np.int32), n),
        seen_place=np.tile(np.arange(n, dtype=np.int32), 2),
        seen_id=np.tile(ids, 2),
        seen_top2=np.tile(top, (2, 1)),
        captured_keys=keys[-4:],
        captured_id=ids[-4:],
        captured_margin=np.full(4, 2.0, np.float32),
        captured_repeat=np.array([1], np.int32),
        compared=np.array([0, 3], np.int32),
        compared_rms_rel=np.array([1e-4, 2e-4], np.float32),
        longest_seen_repeat=np.repeat(np.arange(2, dtype=np.int32), 4),
        longest_seen_row=np.tile(np.arange(4, dtype=np.int32), 2),
        longest_seen_id=np.tile(ids[-4:], 2),
    )
    return replace(data, **changes)


def _changed(values: Any, at: int, value: Any) -> Any:
    changed = values.copy()
    changed[at] = value
    return changed


def test_an_audit_in_which_all_agrees_passes() -> None:
    found = judge(_data(), 1e-3, top2_required=True)
    assert (found.verdict, found.reason) == ("pass", "")
    assert (found.ids_checked, found.ids_clear, found.ids_wrong) == (100, 100, 0)
    assert found.logits_worst_rel == 0.0
    assert (found.longest_turn, found.longest_positions) == ((0, 0), 2)
    assert found.longest_rms_rel == pytest.approx(2e-4)
    assert found.captured_ids_equal is True


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seen_id": _changed(_data().seen_id, 7, 0)}, "1 sampled ids are not the oracle's"),
        ({"seen_id": _changed(_data().seen_id, 7, -1)}, "1 of the places"),
        ({"seen_id": np.full(200, -1, np.int32)}, "100 of the places|200 of the places"),
        ({"seen_top2": _changed(_data().seen_top2, 3, (4.01, 2.0))}, "a largest logit is"),
        ({"seen_top2": _changed(_data().seen_top2, 3, np.nan)}, "1 sampled rows are without"),
        ({"compared_rms_rel": np.array([0, 0.1], np.float32)}, "captured logits of the longest"),
        ({"compared_rms_rel": np.array([0, np.inf], np.float32)}, "is not finite"),
        ({"longest_seen_id": _changed(_data().longest_seen_id, 0, 3)}, "differ between"),
        ({"longest_seen_id": _changed(_data().longest_seen_id, 7, 3)}, "its captured logits"),
    ],
)
def test_what_an_audit_finds(changes: dict[str, Any], reason: str) -> None:
    found = judge(_data(**changes), 1e-3, top2_required=True)
    assert found.verdict == "fail"
    assert pytest.approx(1e-3) == found.tolerance_rms_rel
    assert any(part in found.reason for part in reason.split("|"))


def test_a_near_tie_may_be_another_id() -> None:
    near = _changed(_data().oracle_top2, 7, (2.003, 2.0))
    margin = np.full(4, 0.003, np.float32)
    changes = {
        "oracle_top2": near,
        "seen_id": _changed(_data().seen_id, 7, 0),
        "seen_top2": np.tile(near, (2, 1)),
        "captured_margin": margin,
        "longest_seen_id": _changed(_data().longest_seen_id, 0, 3),
    }
    found = judge(_data(**changes), 1e-3, top2_required=True)
    assert (found.verdict, found.ids_clear) == ("pass", 99)


def test_absent_logits_count_once_the_contract_has_them() -> None:
    data = _data(seen_top2=np.full((200, 2), np.nan, np.float32))
    assert judge(data, 1e-3, top2_required=False).verdict == "pass"
    assert judge(data, 1e-3, top2_required=True).verdict == "fail"


def test_few_places_and_few_clear_ones_are_stated() -> None:
    few = judge(_data(MIN_PLACES - 1), 1e-3, top2_required=True)
    assert few.verdict == "pass"
    assert "63 places of 64" in few.reason
    vague = judge(_data(), 1.0, top2_required=True)  # as of e4m3 products
    assert vague.ids_clear < MIN_CLEAR
    assert "0 of 100 places are clear" in vague.reason


def test_without_another_repeat_nothing_says_that_ids_are_equal() -> None:
    one = _data()
    seen = {
        name: getattr(one, name)[4:]
        for name in ("longest_seen_repeat", "longest_seen_row", "longest_seen_id")
    }
    assert judge(replace(one, **seen), 1e-3, top2_required=True).captured_ids_equal is None


def test_audit_arrays_survive_both_forms(tmp_path) -> None:
    save_audit(tmp_path / "audit.npz", _data())
    for again in (load_audit(tmp_path / "audit.npz"), audit_of_text("x", audit_text(_data()))):
        assert again.seed == b"s" * 16
        assert judge(again, 1e-3, top2_required=True) == judge(_data(), 1e-3, top2_required=True)


# Events.


def _events(rows: list[tuple[int, int, int, int, int]]) -> dict[str, Table]:
    table = empty_table("rows", len(rows))
    for name, values in zip(
        ("session", "turn", "start", "n_tokens", "sampled"), zip(*rows, strict=True), strict=True
    ):
        table[name] = np.array(values, table[name].dtype)
    table["best_logit"] = np.arange(len(rows), dtype=np.float32)
    return {"rows": table}


def test_places_are_found_in_the_events_at_the_last_position_of_a_row() -> None:
    keys = np.array([(1, 0, 9), (0, 1, 30), (0, 0, 9)], np.int32)
    first = _events([(0, 0, 0, 10, 5), (0, 0, 9, 1, 6), (1, 0, 4, 6, 7), (0, 1, 30, 1, 8)])
    second = _events([(1, 0, 9, 1, 9)])
    found = seen_at([first, second], keys)
    rows = zip(found.repeat.tolist(), found.place.tolist(), found.id.tolist(), strict=True)
    assert sorted(rows) == [(0, 0, 7), (0, 1, 8), (0, 2, 5), (0, 2, 6), (1, 0, 9)]
    assert seen_at([], keys).id.size == 0
    assert seen_at([first], keys[:0]).id.size == 0


def test_captured_rows_are_in_order_with_margins_over_their_own_rms() -> None:
    keys = np.array([(0, 1, 8), (0, 1, 7)], np.int32)
    logits = np.array([[0, 3, 1, 0], [5, 0, 0, 1]], np.float32)
    found = captured_of(LogitRows(keys, logits), 2)
    assert found is not None
    assert found.keys[:, 2].tolist() == [7, 8]
    assert found.id.tolist() == [0, 1]
    assert found.margin[1] == pytest.approx(2 / logits[0].std())
    assert captured_of(LogitRows(keys[:0], logits[:0]), 0) is None
    twice = captured_of(LogitRows(np.tile(keys, (2, 1)), np.tile(logits, (2, 1))), 2)
    assert twice is not None
    assert twice.keys.tolist() == found.keys.tolist()


# Simulated devices.


def test_the_closed_rule_is_that_of_the_device() -> None:
    from chipmark.backends.sim.cells import context_hash

    keys = np.array([(0, 0, 5), (0, 1, 40), (2, 0, 3)], np.int32)
    expected = [
        (context_hash(context_of(TRACE, s, t)[: p + 1]) >> 33) % TRACE.vocab_size
        for s, t, p in keys.tolist()
    ]
    assert closed_rule_ids(TRACE, keys).tolist() == expected


@pytest.mark.parametrize("wrong", [False, True])
def test_a_simulated_device_is_audited_by_the_closed_rule(wrong: bool) -> None:
    keys = turn_keys(TRACE, tuple(ALL))
    ids = closed_rule_ids(TRACE, keys)
    if wrong:
        ids = ids * 0
    rows = [(*key[:2], key[2], 1, sampled) for key, sampled in zip(keys.tolist(), ids, strict=True)]
    events = _events(rows)
    turns = empty_table("turns", len(ALL))
    turns["session"], turns["turn"] = np.array(ALL, np.int32).T
    found = audit_by_rule(Subject(({**events, "turns": turns},), "fp32", "fp32", None), TRACE)
    assert found.result.verdict == ("fail" if wrong else "pass")
    assert found.result.ids_checked == PLACES
