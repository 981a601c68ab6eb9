"""Looks, what goes on, and the second session, with a scripted runner in place of processes."""

from __future__ import annotations

import itertools
import math

import pytest

from chipmark.ab.machine import look
from chipmark.ab.readings import Reading
from chipmark.ab.rounds import Measured
from chipmark.ab.sequence import run_sequence
from chipmark.errors import NothingToJudgeError, UsageError
from chipmark.gate.verdict import Margins, Verdict

STATE = look(())


class Silent:
    def say(self, text):
        pass

    stage = say
    steps = say

    def step(self):
        pass


class Scripted:
    """ratios: benchmark -> B / A by session. Small alternating noise; no benchmark is run that
    was decided."""

    def __init__(self, ratios, noise=0.001, direction="lower", canary=None):
        self.ratios, self.noise, self.direction = ratios, noise, direction
        self.warmed, self.runs, self.asked = [], [], []
        self._canary = canary or itertools.repeat(0.01)

    def warm(self, session):
        self.warmed.append(session)

    def canary(self):
        return next(self._canary)

    def run(self, slot, decided):
        self.runs.append(slot)
        self.asked.append(tuple(decided))
        readings = []
        for name, by_session in self.ratios.items():
            if name in decided or (by_session is None and slot.arm == "B"):
                continue
            ratio = by_session[slot.session] if by_session and slot.arm == "B" else 1.0
            wave = 1 + self.noise * math.sin(7.3 * slot.slot)
            unit, metric = ("s", "time_s") if self.direction == "lower" else ("1/s", "rate")
            readings.append(Reading(name, metric, unit, self.direction, ratio * wave, 5))
        return Measured(slot, tuple(readings), self.canary(), STATE, STATE, 1.0)


def verdicts(runner, **options):
    outcome = run_sequence(runner, lambda key: Margins(), 0, Silent(), **options)
    return outcome, {key[0]: j.verdict for key, j in outcome.judgements.items()}


def test_only_the_undecided_continue_and_only_a_candidate_is_confirmed():
    runner = Scripted({"same": (1.0, 1.0), "slow": (1.1, 1.1), "fast": (0.9, 0.9)})
    outcome, found = verdicts(runner)
    assert found == {
        "same": Verdict.EQUIVALENT, "slow": Verdict.REGRESSED, "fast": Verdict.IMPROVED,
    }  # fmt: skip
    assert runner.warmed == [0, 1]
    first = [s for s in runner.runs if s.session == 0]
    assert len(first) == 20  # look 6 may not say regressed, look 10 asks for confirmation
    assert set(runner.asked[:12]) == {()}
    assert set(runner.asked[12:20]) == {("same",)}
    assert len(runner.runs) - len(first) == 32
    assert len(outcome.series(0)["same", "time_s"].a) == 6


def test_all_decided_stops_at_the_first_look():
    runner = Scripted({"same": (1.0, 1.0)})
    verdicts(runner)
    assert (len(runner.runs), runner.warmed) == (12, [0])


def test_an_effect_that_the_second_session_does_not_show_is_inconclusive():
    _, found = verdicts(Scripted({"x": (1.1, 1.0)}))
    assert found == {"x": Verdict.INCONCLUSIVE}


def test_a_rate_that_falls_is_worse():
    _, found = verdicts(Scripted({"x": (0.9, 0.9)}, direction="higher"))
    assert found == {"x": Verdict.REGRESSED}


def test_noise_ends_inconclusive_after_all_rounds_or_more_when_asked():
    runner = Scripted({"x": (1.01, 1.01)}, noise=0.2)
    assert verdicts(runner)[1] == {"x": Verdict.INCONCLUSIVE}
    assert len(runner.runs) == 32
    runner = Scripted({"x": (1.01, 1.01)}, noise=0.2)
    verdicts(runner, looks=(6, 10, 16, 32))
    assert len(runner.runs) == 64


def test_an_unfit_machine_gives_no_verdict_and_is_not_asked_again():
    runner = Scripted({"x": (1.2, 1.2)}, canary=itertools.cycle([0.01, 0.015]))
    outcome, found = verdicts(runner)
    assert found == {"x": Verdict.UNFIT}
    assert runner.warmed == [0]
    assert outcome.canary is not None
    assert not outcome.canary.fit


def test_a_benchmark_of_one_arm_is_named_and_not_judged():
    outcome, found = verdicts(Scripted({"x": (1.0, 1.0), "gone": None}))
    assert set(found) == {"x"}
    assert outcome.left_out == ("gone (time_s): only in arm A",)
    with pytest.raises(NothingToJudgeError, match="no benchmark in common"):
        verdicts(Scripted({"gone": None}))


def test_a_round_that_lacks_a_benchmark_in_one_arm_is_named():
    class Flaky(Scripted):
        def run(self, slot, decided):
            gone = ["x"] if (slot.round, slot.arm) == (3, "B") else []
            return super().run(slot, [*decided, *gone])

    with pytest.raises(UsageError, match="x gave no time_s in round 4 of arm B"):
        verdicts(Flaky({"x": (1.0, 1.0), "y": (1.0, 1.0)}))
