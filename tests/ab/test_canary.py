"""What the canary stops, and what it lets pass because the order cancels it."""

from __future__ import annotations

import math
import os

import pytest

from chipmark.ab.canary import judge_canary, run_canary
from chipmark.ab.machine import CardState, card_faults, look


def test_a_drift_is_no_fault():
    report = judge_canary([[0.01 * 1.01**i for i in range(32)]], (0.0, -0.004, 0.004), 0.02)
    assert report.fit
    assert report.noise < 0.01 < report.cv
    assert any("drifted" in text for text in report.notices)


def test_jumps_beyond_the_limit_are_unfit_and_below_it_a_notice():
    jumps = [0.01 * (1.2 if i % 2 else 1.0) for i in range(20)]
    assert not judge_canary([jumps], None, 0.02).fit
    assert judge_canary([jumps], None, 0.02, limit=0.2).notices
    assert "slot to slot" in judge_canary([jumps], None, 0.02).faults[0]


def test_a_canary_that_differs_between_the_arms_is_unfit():
    steady = [0.01] * 20
    assert judge_canary([steady], (0.03, 0.01, 0.05), 0.02).faults
    assert judge_canary([steady], (0.03, -0.01, 0.07), 0.02).fit
    assert judge_canary([steady], (0.01, 0.005, 0.015), 0.02).fit


def test_no_difference_is_taken_over_the_pause_between_sessions():
    report = judge_canary([[0.01] * 10, [0.02] * 10], None, 0.02)
    assert report.noise == 0
    assert report.drift == pytest.approx(math.log(2))


def test_the_canary_runs():
    assert 0 < run_canary(dict(os.environ)) < 10


def test_a_card_in_use_or_throttled_is_a_fault():
    state = look((CardState(0, 1980, 60, 0, (77,)), CardState(1, 1980, 90, 0x20, ())))
    first, second = card_faults(state)
    assert "card 0 is used by other processes: 77" in first
    assert "card 1 is throttled" in second
    assert card_faults(look((CardState(0, 1980, 60, 0, ()),))) == []
