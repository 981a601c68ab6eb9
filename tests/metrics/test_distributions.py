"""Against scipy, whose place these functions take."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from scipy.optimize import nnls

from chipmark.metrics.distributions import beta, incomplete_beta, nonnegative, student_t


@pytest.mark.parametrize("freedom", [1, 2, 2.5, 3, 9, 29, 99, 1000.0])
def test_students_t(freedom: float) -> None:
    for p in (0.5, 0.6, 0.95, 0.975, 0.995, 0.9999):
        its = special.stdtrit(freedom, p)
        assert student_t(freedom, p) == pytest.approx(its, rel=1e-10, abs=1e-15)


@pytest.mark.parametrize("a", [0.5, 1.0, 2.5, 59.0, 1e4])
@pytest.mark.parametrize("b", [0.5, 1.0, 7.25, 400.0])
def test_beta(a: float, b: float) -> None:
    for p in (0.0, 1e-6, 0.05, 0.5, 0.95, 1.0):
        x = float(special.betaincinv(a, b, p))
        assert beta(a, b, p) == pytest.approx(x, rel=1e-9, abs=1e-300)
        assert incomplete_beta(a, b, x) == pytest.approx(special.betainc(a, b, x), rel=1e-9)


def test_what_is_no_probability_is_refused() -> None:
    for call in (lambda: student_t(3, 1.0), lambda: student_t(0, 0.9), lambda: beta(0, 1, 0.5)):
        with pytest.raises(ValueError, match="p = "):
            call()


@pytest.mark.parametrize("seed", range(40))
def test_least_squares(seed: int) -> None:
    generator = np.random.default_rng(seed)
    features = generator.random((30, 1 + seed % 6)) * 10.0 ** (seed % 5 - 2)
    target = features @ generator.normal(size=features.shape[1]) + generator.normal(size=30)
    if seed % 7 == 0:
        target = -np.abs(target)
    mine, its = nonnegative(features, target), nnls(features, target)[0]
    assert (mine >= 0).all()
    np.testing.assert_allclose(mine, its, rtol=1e-8, atol=1e-10 * max(1.0, np.abs(its).max()))
