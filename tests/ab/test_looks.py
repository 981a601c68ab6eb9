"""Looks, what goes on, and the second session, with a scripted runner in place of processes."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from chipmark.ab.looks import run_sequence
from chipmark.ab.machine import look
from chipmark.ab.readings import Lost, Reading
from chipmark.ab.session import Measured
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


def test_a_benchmark_that_arm_b_lost_is_missing_and_costs_itself_alone():
    runner = Scripted({"x": (1.0, 1.0), "gone": None})
    outcome, found = verdicts(runner)
    assert found == {"x": Verdict.EQUIVALENT, "gone": Verdict.MISSING}
    assert outcome.judgements["gone", "time_s"].reasons == (
        "arm B, session 1, round 1: gave no value",
    )
    assert len(runner.runs) == 12
    assert verdicts(Scripted({"gone": None}))[1] == {"gone": Verdict.MISSING}


class Flaky(Scripted):
    """Lacks `x` in one arm of round 4."""

    def __init__(self, arm, ratios, failed=True, **more):
        super().__init__(ratios, **more)
        self.arm, self.failed = arm, failed

    def run(self, slot, decided):
        if (slot.round, slot.arm) != (3, self.arm):
            return super().run(slot, decided)
        lost = (Lost("x", "", "call: ZeroDivisionError", self.failed),)
        return replace(super().run(slot, [*decided, "x"]), lost=lost)


@pytest.mark.parametrize(
    ("arm", "failed", "verdict"),
    [
        ("B", True, Verdict.MISSING),
        ("B", False, Verdict.UNFIT),
        ("A", True, Verdict.UNFIT),
        ("A", False, Verdict.UNFIT),
    ],
)
def test_a_round_without_a_benchmark_costs_that_benchmark(arm, failed, verdict):
    outcome, found = verdicts(Flaky(arm, {"x": (1.0, 1.0), "y": (1.0, 1.0)}, failed))
    assert found == {"x": verdict, "y": Verdict.EQUIVALENT}
    (reason,) = outcome.judgements["x", "time_s"].reasons
    assert reason == f"arm {arm}, session 1, round 4: call: ZeroDivisionError"
    assert outcome.faults == ()


def test_what_is_lost_while_it_is_confirmed_is_missing():
    class Late(Scripted):
        def run(self, slot, decided):
            gone = ["x"] if (slot.session, slot.round, slot.arm) == (1, 2, "B") else []
            return super().run(slot, [*decided, *gone])

    outcome, found = verdicts(Late({"x": (1.1, 1.1)}))
    assert found == {"x": Verdict.MISSING}
    assert "session 2, round 3" in outcome.judgements["x", "time_s"].reasons[0]


def test_an_unfit_machine_leaves_what_is_missing_missing():
    runner = Scripted({"x": (1.0, 1.0), "gone": None}, canary=itertools.cycle([0.01, 0.015]))
    assert verdicts(runner)[1] == {"x": Verdict.UNFIT, "gone": Verdict.MISSING}


def test_what_only_arm_b_has_is_a_note():
    class New(Scripted):
        def run(self, slot, decided):
            return super().run(slot, [*decided, *(["new"] if slot.arm == "A" else [])])

    outcome, found = verdicts(New({"x": (1.0, 1.0), "new": (1.0, 1.0)}))
    assert found == {"x": Verdict.EQUIVALENT}
    assert outcome.left_out == ("new (time_s): only in arm B",)


def test_everything_that_moves_together_is_still_judged_one_by_one():
    names = [f"x{i}" for i in range(8)]
    _, found = verdicts(Scripted(dict.fromkeys(names, (1.1, 1.1))))
    assert found == dict.fromkeys(names, Verdict.REGRESSED)
