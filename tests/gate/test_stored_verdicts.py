"""The gate on files: other sessions, one interleaved run, machines, and what is refused."""

from __future__ import annotations

import json
import math

import pytest

from chipmark.errors import BadInputError, UsageError
from chipmark.gate.machine_bounds import (
    ACROSS_SESSIONS,
    Bound,
    SessionMargin,
    fingerprint,
    session_margin,
    store_bound,
)
from chipmark.gate.simulation.rule import simulate_stored
from chipmark.gate.stored_series import load_run
from chipmark.gate.stored_verdicts import judge_stored
from chipmark.gate.thresholds import Thresholds
from chipmark.gate.verdict import Verdict

DEFAULT = SessionMargin(ACROSS_SESSIONS, "the default")
CALM = SessionMargin(0.01, "a calm machine")


def verdicts(base, *new, margin=DEFAULT, thresholds=None):
    findings = judge_stored(
        [load_run(base)], [load_run(p) for p in new], thresholds or Thresholds(), margin
    )
    return findings, {row.benchmark: row.verdict for row in findings.rows}


def test_a_regression_needs_a_second_run(write):
    base, first, second = write("base"), write("first", 1.4), write("second", 1.4)
    findings, found = verdicts(base, first)
    assert set(found.values()) == {Verdict.INCONCLUSIVE}
    assert "not confirmed" in findings.rows[0].judgement.reasons[0]
    findings, found = verdicts(base, first, second)
    assert set(found.values()) == {Verdict.REGRESSED}
    assert findings.exit_code == 1
    _, found = verdicts(base, first, write("third", 1.0))
    assert set(found.values()) == {Verdict.INCONCLUSIVE}


def test_an_improvement_is_the_mirror(write):
    findings, found = verdicts(write("base", 1.4), write("first"), write("second"))
    assert set(found.values()) == {Verdict.IMPROVED}
    assert findings.exit_code == 0


def test_other_sessions_cost_a_margin_and_say_so(write):
    findings, found = verdicts(write("base"), write("first", 1.06), write("second", 1.06))
    assert set(found.values()) == {Verdict.INCONCLUSIVE}
    assert "different sessions" in findings.notes[0]
    assert math.isfinite(findings.rows[0].judgement.smallest_seen)
    _, found = verdicts(write("base"), write("first", 1.06), write("second", 1.06), margin=CALM)
    assert set(found.values()) == {Verdict.REGRESSED}


def test_equivalent_needs_a_machine_whose_sessions_agree(write):
    _, found = verdicts(write("base"), write("new"))
    assert Verdict.EQUIVALENT not in found.values()
    _, found = verdicts(write("base"), write("new"), margin=CALM)
    assert set(found.values()) == {Verdict.EQUIVALENT}


def test_three_samples_are_too_few(write):
    findings, found = verdicts(write("base", n=3), write("new", 2.0, n=3), write("b", 2.0, n=3))
    assert set(found.values()) == {Verdict.INCONCLUSIVE}
    assert "too few samples" in findings.rows[0].judgement.reasons[0]


def test_everything_moved_together_is_the_machine(write):
    names = [f"t.py::test_{i}" for i in range(5)]
    new = [write(name, 1.4, names=names) for name in ("first", "second")]
    findings, found = verdicts(write("base", names=names), *new)
    assert set(found.values()) == {Verdict.UNFIT}
    assert findings.exit_code == 3
    assert "moved together" in findings.rows[0].judgement.reasons[0]


def test_the_absolute_floor_must_be_passed_too(write):
    files = write("base"), write("first", 1.4), write("second", 1.4)
    _, found = verdicts(*files, thresholds=Thresholds(absolute_floor=0.003))
    assert set(found.values()) == {Verdict.REGRESSED}  # 4 ms of 10
    _, found = verdicts(*files, thresholds=Thresholds(absolute_floor=0.005))
    assert set(found.values()) == {Verdict.INCONCLUSIVE}


def arms(write, factor, sessions=2, rounds=16, without=None):
    listed = [[s, r] for s in range(sessions) for r in range(rounds)]
    head = [pair for pair in listed if pair != without]
    return (
        write("a", ab=("run", "A"), rounds=listed),
        write("b", factor, ab=("run", "B"), rounds=head),
    )


def test_arms_of_one_run_are_paired_by_round(write):
    findings, found = verdicts(*arms(write, 1.05))
    assert set(found.values()) == {Verdict.REGRESSED}
    assert "paired by round" in findings.notes[0]
    assert findings.rows[0].judgement.estimate.n == 16
    _, found = verdicts(*arms(write, 1.0))
    assert set(found.values()) == {Verdict.EQUIVALENT}


def test_the_machines_own_bound_widens_what_is_red_inside_a_session_too(write):
    noisy = SessionMargin(0.2, "A/A", within=0.08)
    findings, found = verdicts(*arms(write, 1.05), margin=noisy)
    assert set(found.values()) == {Verdict.INCONCLUSIVE}
    assert findings.rows[0].judgement.margins.delta_red == 0.08


def test_an_interleaved_run_without_its_second_session_confirms_nothing(write):
    findings, found = verdicts(*arms(write, 1.05, sessions=1))
    assert set(found.values()) == {Verdict.INCONCLUSIVE}
    assert "second session" in findings.rows[0].judgement.reasons[0]


def test_a_round_that_failed_in_one_arm_costs_its_benchmark_only(write):
    files = arms(write, 1.0, without=[1, 3])
    findings, found = verdicts(*files)
    assert set(found.values()) == {Verdict.MISSING}  # every benchmark of arm B lost that round
    assert "b.json: has no sample of session 2, round 4" in findings.rows[0].judgement.reasons[0]
    assert findings.exit_code == 1
    _, found = verdicts(*files[::-1])
    assert set(found.values()) == {Verdict.UNFIT}


def test_arms_of_a_run_whose_machine_was_unfit_stay_unfit(write):
    files = arms(write, 1.05)
    for path in files:
        document = json.loads(path.read_text(encoding="utf-8"))
        document["chipmark"]["interleaved"]["unfit"] = ["the canary jumped"]
        path.write_text(json.dumps(document), encoding="utf-8")
    findings, found = verdicts(*files)
    assert set(found.values()) == {Verdict.UNFIT}
    assert "the canary jumped" in findings.rows[0].judgement.reasons[0]


def test_what_is_undecided_tells_the_smallest_effect_that_would_have_been_seen(write):
    findings = [
        verdicts(write("base"), write("first", 1.4))[0],
        verdicts(write("base"), write("first", 1.4), write("third", 1.0))[0],
        verdicts(*arms(write, 1.05, sessions=1))[0],
    ]
    for found in findings:
        assert found.rows[0].verdict is Verdict.INCONCLUSIVE
        assert found.rows[0].judgement.smallest_seen >= 0.03
        assert "would have been seen" in found.rows[0].sentence()


def test_machines_are_refused_on_identity_and_warned_on_context(write):
    with pytest.raises(UsageError, match="different machines: cpu brand_raw 'a chip' and 'other'"):
        verdicts(write("base"), write("new", cpu="other"))
    findings, _ = verdicts(write("base"), write("new", node="there"))
    assert any("context differs: node" in note for note in findings.notes)


def test_a_run_is_not_compared_with_itself(write):
    with pytest.raises(UsageError, match="same run"):
        verdicts(write("base"), write("base"))
    with pytest.raises(UsageError, match="same run"):
        verdicts(write("base"), write("new"), write("new"))


def test_the_margin_is_the_machines_own_where_aa_stored_one(tmp_path):
    of = fingerprint({"cpu": "a chip"})
    assert session_margin(of, tmp_path).value == ACROSS_SESSIONS
    bound = Bound(fingerprint=of, within=0.01, across=0.05, pairs=40, created="2026-11-25")
    path = store_bound(bound, tmp_path)
    assert session_margin(of, tmp_path).value == 0.05
    path.write_text("{", encoding="utf-8")
    with pytest.raises(BadInputError, match="delete it"):
        session_margin(of, tmp_path)


def test_the_default_margin_holds_false_reds():
    assert simulate_stored(0.0, trials=200_000, seed=1) <= 0.001
    assert simulate_stored(0.30, trials=20_000, seed=1) >= 0.95


def test_sides_of_unlike_numbers_of_rounds_are_compared(write):
    # `--benchmark-precision` ends the rounds by itself, so that both sides have their own number.
    for rounds in (5, 40, 300):
        files = write("base"), write("first", 1.4, n=rounds), write("second", 1.4, n=7)
        assert set(verdicts(*files)[1].values()) == {Verdict.REGRESSED}
