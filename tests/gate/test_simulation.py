"""What the rule promises, by simulation at the noise that users report; seeded."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from chipmark.gate.simulation.noise import Noise, paired_differences
from chipmark.gate.simulation.rule import SUITE, main, simulate, upper_bound, verdicts_of
from chipmark.gate.verdict import LOOKS, Margins, Next, Verdict, confirm, look

SEED = 20_261_125


def test_false_reds_are_at_most_one_per_cent_of_suites_of_twenty():
    rates = simulate(0.0, trials=20_000, seed=SEED)
    assert rates.regressed_bound <= 0.001
    assert 1 - (1 - rates.regressed_bound) ** SUITE <= 0.01


def test_five_per_cent_is_found_in_95_of_100():
    rates = simulate(0.05, trials=4_000, seed=SEED)
    assert rates.regressed >= 0.95
    assert rates.equivalent == 0.0
    assert simulate(0.10, trials=1_000, seed=SEED).regressed >= 0.98


def test_three_per_cent_is_never_called_equivalent():
    rates = simulate(0.03, trials=4_000, seed=SEED)
    assert rates.equivalent <= 0.001
    assert rates.improved == 0.0


def test_twice_the_noise_costs_power_and_no_false_reds():
    noisy = Noise().times(2)
    assert simulate(0.0, trials=20_000, seed=SEED, noise=noisy).regressed_bound <= 0.001
    at_16 = simulate(0.05, trials=2_000, seed=SEED, noise=noisy).regressed
    at_32 = simulate(0.05, trials=2_000, seed=SEED, noise=noisy, looks=(*LOOKS, 32)).regressed
    assert 0.70 <= at_16 <= 0.85
    assert at_32 >= 0.95


def test_the_simulated_rule_is_the_one_that_judges():
    """Series by series: the arrays of the simulation against `look` and `confirm`."""
    generator = np.random.Generator(np.random.Philox(3))
    for effect in (0.0, 0.03, 0.05, -0.06):
        first, second = (
            paired_differences(generator, Noise(), math.log1p(effect), 60, LOOKS[-1])
            for _ in range(2)
        )
        codes, used = verdicts_of(first, second, Margins(), LOOKS)
        names = (
            Verdict.INCONCLUSIVE,
            Verdict.REGRESSED,
            Verdict.IMPROVED,
            Verdict.EQUIVALENT,
        )
        for d, again, code, pairs in zip(first, second, codes, used, strict=True):
            verdict, n = one_by_one(d, again)
            assert (verdict, n) == (names[int(code)], pairs)


def one_by_one(first: np.ndarray, second: np.ndarray) -> tuple[Verdict, int]:
    for n in LOOKS:
        step = look(first[:n], Margins())
        if step.next is Next.CONFIRM:
            return confirm(first[:n], second, Margins()).verdict, n + second.size
        if step.next is Next.DONE:
            return step.judgement.verdict, n
    raise AssertionError("the last look is always final")


def test_a_seed_gives_the_same_figures():
    assert simulate(0.05, trials=200, seed=1) == simulate(0.05, trials=200, seed=1)
    assert simulate(0.05, trials=200, seed=1) != simulate(0.05, trials=200, seed=2)


@pytest.mark.parametrize(("found", "trials", "bound"), [(0, 300, 0.00994), (1, 300, 0.0157)])
def test_bounds_of_a_rate(found, trials, bound):
    assert upper_bound(found, trials) == pytest.approx(bound, rel=0.01)


def test_the_command_prints_one_document(capsys):
    assert main(["--trials", "50", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["noise"] for row in rows} >= {"reported noise, 16 rounds"}
    assert main(["--trials", "50"]) == 0
    assert "suite red" in capsys.readouterr().out
