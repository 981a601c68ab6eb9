from __future__ import annotations

import pytest

from chipmark.cell.sweep import find_capacity
from chipmark.results.manifest import SweepPoint


@pytest.mark.parametrize(
    ("true_best", "largest", "expected"),
    [(5, 16, 5), (1, 16, 1), (0, 16, 0), (16, 16, 16), (20, 16, 16), (11, 12, 11), (7, 7, 7)],
)
def test_largest_number_that_meets_the_share_is_found(
    true_best: int, largest: int, expected: int
) -> None:
    asked: list[int] = []

    def measure(n: int) -> SweepPoint:
        asked.append(n)
        met = 0.99 if n <= true_best else 0.5
        return SweepPoint(concurrency=n, slo_attainment=met, turns=9, sessions_per_hour=1.0)

    best, points = find_capacity(measure, largest, 0.95)
    assert best == expected
    assert max(asked) <= largest
    assert len(asked) == len(set(asked)) <= 9
    assert [p.concurrency for p in points] == sorted(asked)


def test_point_without_turns_is_a_miss() -> None:
    def measure(n: int) -> SweepPoint:
        return SweepPoint(concurrency=n, slo_attainment=None, turns=0, sessions_per_hour=None)

    assert find_capacity(measure, 8, 0.95)[0] == 0
