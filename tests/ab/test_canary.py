"""What the canary stops, and what it lets pass because the order cancels it."""

from __future__ import annotations

import math
import os

import numpy as np
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


def test_a_few_disturbed_slots_are_said_and_do_not_end_the_run():
    quiet = [0.0065 * (1 + 0.01 * math.sin(3.1 * i)) for i in range(33)]
    two = [*quiet[:14], 0.0121, 0.0146, *quiet[16:]]
    report = judge_canary([two], None, 0.02)
    assert report.fit
    assert report.noise < 0.02
    assert report.disturbed == pytest.approx(3 / 32)
    assert any("9% of the canary's changes" in text for text in report.notices)
    often = [x * (2 if i % 5 == 0 else 1) for i, x in enumerate(quiet)]
    assert not judge_canary([often], None, 0.02).fit


def test_the_noise_of_normal_readings_is_their_spread():
    logs = np.random.default_rng(3).normal(0, 0.05, 4000)
    report = judge_canary([list(np.exp(logs))], None, 0.02)
    assert report.noise == pytest.approx(0.05, rel=0.05)


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
