"""The rule of the definitions, sentence by sentence."""

from __future__ import annotations

import math

import numpy as np
import pytest

from chipmark.gate.verdict import (
    LOOKS,
    Margins,
    Next,
    Verdict,
    confirm,
    describe,
    estimate,
    look,
    smallest_seen,
    unfit,
)


def series(effect: float, n: int, spread: float = 0.002) -> np.ndarray:
    """n differences around ln(1 + effect), symmetric."""
    return math.log1p(effect) + spread * np.linspace(-1, 1, n)


def test_an_interval_inside_the_half_width_is_equivalent_at_every_look():
    for n in LOOKS:
        found = look(series(0.001, n), Margins())
        assert (found.next, found.judgement.verdict) == (Next.DONE, Verdict.EQUIVALENT)


def test_the_first_look_ends_as_equivalent_only():
    assert look(series(0.10, 6), Margins()).next is Next.MORE
    assert look(series(-0.10, 6), Margins()).next is Next.MORE
    assert look(series(0.10, 10), Margins()).next is Next.CONFIRM


def test_a_regression_needs_a_second_session():
    first = series(0.06, 10)
    candidate = look(first, Margins())
    assert candidate.next is Next.CONFIRM
    assert candidate.judgement.verdict is Verdict.INCONCLUSIVE  # until it is confirmed
    assert confirm(first, series(0.05, 16), Margins()).verdict is Verdict.REGRESSED
    again = confirm(first, series(0.01, 16), Margins())
    assert again.verdict is Verdict.INCONCLUSIVE
    assert "did not confirm" in again.reasons[0]


def test_an_improvement_is_the_mirror():
    first = series(-0.06, 10)
    assert look(first, Margins()).next is Next.CONFIRM
    assert confirm(first, series(-0.06, 10), Margins()).verdict is Verdict.IMPROVED
    assert confirm(first, series(0.06, 10), Margins()).verdict is Verdict.INCONCLUSIVE


def test_the_effect_must_be_beyond_delta_red_not_the_bound():
    # The bound is over 0 and the effect over 3 %: it counts, although the bound is under 3 %.
    wide = series(0.04, 16, 0.035)
    found = estimate(wide)
    assert 0 < found.low < 0.03 < found.effect
    assert look(wide, Margins(delta_red=0.03)).next is Next.CONFIRM
    assert look(wide, Margins(delta_red=0.05)).next is Next.DONE
    assert look(wide, Margins(delta_red=0.05)).judgement.verdict is Verdict.INCONCLUSIVE


def test_both_floors_must_be_passed():
    d = series(0.10, 16)
    margins = Margins(absolute_floor=0.001)
    assert look(d, margins, scale=0.1).next is Next.CONFIRM  # 10 ms of 100
    assert look(d, margins, scale=0.001).next is Next.DONE  # 0.1 ms of 1


def test_noise_never_widens_equivalence():
    margins = Margins(delta_eq=0.02).widened(0.10)
    assert (margins.delta_red, margins.delta_eq) == (0.10, 0.02)
    assert look(series(0.03, 16), margins).judgement.verdict is Verdict.INCONCLUSIVE


def test_undecided_says_what_would_have_been_seen():
    d = series(0.0, 16, 0.08)
    found = look(d, Margins())
    assert (found.next, found.judgement.verdict) == (Next.DONE, Verdict.INCONCLUSIVE)
    seen = smallest_seen(estimate(d), Margins())
    assert found.judgement.smallest_seen == seen
    # A series of the same noise, shifted by a little more than that, is a candidate.
    assert look(d + seen + 1e-6, Margins()).next is Next.CONFIRM
    assert look(d + seen * 0.9, Margins()).next is Next.DONE


def test_too_few_pairs_are_said_to_be_too_few():
    found = look(series(0.1, 3), Margins())
    assert found.next is Next.MORE
    assert "too few" in found.judgement.reasons[0]


def test_unfit_is_no_verdict_on_the_code():
    judged = unfit(["the canary moved by 9 %"], Margins())
    assert (judged.verdict, judged.reasons) == (Verdict.UNFIT, ("the canary moved by 9 %",))


@pytest.mark.parametrize("field", ["delta_red", "delta_eq", "absolute_floor"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_margins_are_checked(field, value):
    with pytest.raises(ValueError, match=field):
        Margins(**{field: value})


def test_an_estimate_in_words():
    assert describe(estimate(series(0.05, 16, 0.0))) == "+5.0 % (+5.0 to +5.0 %, 16 pairs)"
    assert describe(estimate(series(0.05, 3))).endswith("(no interval, 3 pairs)")
