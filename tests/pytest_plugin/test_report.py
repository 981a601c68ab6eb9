"""What stands in `extra_info`: the same rule for a percentile as in the table."""

from __future__ import annotations

import numpy as np
import pytest

from chipmark.codes import NullReason
from chipmark.metrics.intervals import percentile
from chipmark.pytest_plugin.report import Measured, block


@pytest.mark.parametrize("n", [1, 2, 5, 58, 59, 64, 100])
def test_percentiles_are_values_that_were_measured_by_the_rule_of_the_table(n):
    seconds = tuple(float(x) for x in np.random.default_rng(n).lognormal(size=n))
    found = block(Measured("t.py::t", "call", "host", seconds, ttft_s=seconds, tpot_s=seconds))
    for name in ("p50_s", "ttft_p50_s", "tpot_p50_s"):
        assert found[name] == percentile(np.array(seconds), 0.5)
        assert found[name] in seconds
    p95 = percentile(np.array(seconds), 0.95) if n >= 59 else None
    assert found["p95_s"] == found["ttft_p95_s"] == found["tpot_p95_s"] == p95
    assert n >= 59 or found["null_reasons"]["p95_s"] == "n_too_small"


@pytest.mark.parametrize(
    "changes",
    [{}, {"calls": 3}, {"n_tokens": 4}, {"n_tokens": 4, "energy_j": 0.0, "energy_reason": ""}],
)
def test_reasons_are_those_of_the_table(changes):
    found = block(Measured("t.py::t", "call", "host", (1.0, 2.0), **changes))
    assert set(found["null_reasons"].values()) <= set(NullReason)
    assert all((found[name] is None) for name in found["null_reasons"])


def test_an_even_count_is_not_interpolated():
    found = block(Measured("t.py::t", "call", "host", (1.0, 2.0, 4.0, 9.0)))
    assert found["p50_s"] == 2.0
