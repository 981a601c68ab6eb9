"""The gate's arithmetic over 10,000 benchmarks, timed by pytest-benchmark:

    pytest tests/bench/test_gate_arithmetic.py --benchmark-only

No wall time is asserted; the test itself checks that all were judged.
"""

from __future__ import annotations

import numpy as np

from chipmark.gate.simulation.noise import Noise, paired_differences
from chipmark.gate.unpaired_effect import shift
from chipmark.gate.verdict import LOOKS, Margins, look

BENCHMARKS = 10_000


def test_verdicts_of_ten_thousand_pairings(benchmark):
    generator = np.random.Generator(np.random.Philox(1))
    series = paired_differences(generator, Noise(), 0.0, BENCHMARKS, LOOKS[-1])
    margins = Margins()

    def judge() -> int:
        return sum(look(d, margins).judgement.estimate is not None for d in series)

    assert benchmark.pedantic(judge, rounds=1, iterations=1) == BENCHMARKS


def test_shifts_of_ten_thousand_stored_benchmarks(benchmark):
    before, after = np.random.default_rng(1).normal(size=(2, BENCHMARKS, 16))

    def judge() -> int:
        return sum(shift(a, b).n == 16 for a, b in zip(before, after, strict=True))

    assert benchmark.pedantic(judge, rounds=1, iterations=1) == BENCHMARKS
