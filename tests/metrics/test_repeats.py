"""A drift is found, noise is not, whatever its spread."""

from __future__ import annotations

import numpy as np
import pytest

from chipmark.metrics.repeats import LEAST_DRIFT, drift


@pytest.mark.parametrize("n", range(3, 11))
def test_independent_noise_seldom_bars(n: int) -> None:
    draws = np.exp(0.2 * np.random.default_rng(n).normal(size=(4000, n)))
    found = [drift(row) for row in draws.tolist()]
    share = np.mean([d is not None and d.beyond for d in found])
    # 1 % by construction at 3 repeats; four standard errors of a simulation of 4,000 are 0.6 %.
    assert share < 0.017


@pytest.mark.parametrize("n", [5, 6, 8, 10])
def test_a_device_that_heats_up_is_found(n: int) -> None:
    noise = np.exp(0.01 * np.random.default_rng(n).normal(size=(400, n)))
    falls = np.linspace(1.0, 0.7, n)
    assert np.mean([drift(row).beyond for row in (noise * falls).tolist()]) > 0.95  # type: ignore[union-attr]


def test_three_repeats_on_a_line_are_a_drift_and_three_that_swing_are_not() -> None:
    line = drift([1.0, 1.1, 1.21])
    assert line is not None
    assert line.ratio == pytest.approx(1.21)
    assert line.beyond
    swing = drift([1.0, 1.3, 0.9])
    assert swing is not None
    assert not swing.beyond


def test_what_repeats_itself_up_to_rounding_does_not_drift() -> None:
    found = drift([1.0, 1.0 + 1e-15, 1.0 + 2e-15])
    assert found is not None
    assert not found.beyond
    small = drift([1.0, 1 + LEAST_DRIFT / 3, 1 + LEAST_DRIFT / 1.5])
    assert small is not None
    assert not small.beyond


def test_a_drift_needs_three_positive_repeats() -> None:
    assert drift([1.0, 2.0]) is None
    assert drift([1.0, 0.0, 1.0]) is None
