"""Distinct work, its quantiles, and how they differ over other work of its kind."""

from __future__ import annotations

import numpy as np
import pytest

from chipmark.metrics.intervals import session_bootstrap
from chipmark.metrics.quantiles import least_n, quantiles, work_intervals
from chipmark.metrics.samples import KINDS, Samples, by_kind, joined, medians, n_distinct


def samples(values: dict[tuple[int, int, int], float]) -> Samples:
    keys = np.array(list(values), dtype=np.int64).reshape(-1, 3)
    return Samples(keys[:, 0], keys[:, 1], keys[:, 2], np.array(list(values.values())))


def turns(values: list[float], per_session: int = 1) -> Samples:
    return samples({(i // per_session, i % per_session, -1): v for i, v in enumerate(values)})


def repeat(**kinds: Samples) -> dict[str, Samples]:
    return {kind: kinds.get(kind, samples({})) for kind in KINDS}


def test_the_median_of_copies_stands_for_a_turn() -> None:
    one, two, three = (
        {(0, 0, -1): a, (0, 1, -1): b} for a, b in ((1.0, 5.0), (9.0, 6.0), (2.0, 4.0))
    )
    found = medians(joined([samples(one), samples(two), samples(three)]))
    assert found.value_s.tolist() == [2.0, 5.0]
    even = medians(joined([samples(one), samples(two)]))
    assert even.value_s.tolist() == [5.0, 5.5]
    assert n_distinct(joined([samples(one), samples(two)])) == 2


def test_stalls_of_gaps_stay_in_the_pool() -> None:
    calm = samples({(0, 0, 5): 0.01, (0, 0, 6): 0.01})
    stalled = samples({(0, 0, 5): 0.01, (0, 0, 6): 0.90})
    pooled = by_kind([repeat(itl=calm), repeat(itl=stalled), repeat(itl=calm)], "itl")  # type: ignore[list-item]
    assert sorted(pooled.value_s.tolist()) == [0.01] * 5 + [0.9]


@pytest.mark.parametrize(("q", "n"), [(0.5, 1), (0.95, 59), (0.99, 299)])
def test_least_samples_of_a_quantile(q: float, n: int) -> None:
    assert least_n(q) == n
    if n > 1:
        assert 1 - q**n >= 0.95 > 1 - q ** (n - 1)


@pytest.mark.parametrize(("n", "known"), [(58, False), (59, True)])
def test_p95_needs_59_distinct_turns(n: int, known: bool) -> None:
    one = repeat(ttft_append=turns([1.0 + i for i in range(n)]))
    found = quantiles([one, one, one])["ttft_p95_s"]  # type: ignore[list-item]
    assert (found.value is not None) == known
    assert found.reason == (None if known else "n_too_small")
    if known:
        # Rank ceil(0.95 x 59) = 57.
        assert found.value == 57.0
        assert found.interval == (57.0, 57.0)


@pytest.mark.parametrize(("n", "known"), [(298, False), (299, True)])
def test_p99_needs_299_distinct_gaps(n: int, known: bool) -> None:
    gaps = samples({(0, 0, 10 + i): 1.0 + i for i in range(n)})
    found = quantiles([repeat(itl=gaps)])["itl_p99_s"]  # type: ignore[list-item]
    assert (found.value is not None) == known
    if known:
        assert found.value == 297.0  # rank ceil(0.99 x 299)


def test_one_repeat_has_no_interval() -> None:
    one = repeat(ttft_append=turns([1.0, 2.0]), session=turns([3.0, 4.0]))
    assert quantiles([one])["ttft_p50_s"].interval is None  # type: ignore[list-item]


def test_a_bootstrap_needs_twenty_sessions_and_repeats_itself() -> None:
    draws = np.random.default_rng(5).exponential(size=100)
    few = np.arange(100) % 19
    assert session_bootstrap(few, draws, 0.5) is None
    enough = np.arange(100) % 20
    first, again = (session_bootstrap(enough, draws, 0.5) for _ in range(2))
    assert first == again
    assert first is not None
    assert first[0] <= float(np.median(draws)) <= first[1]  # type: ignore[operator]


def test_a_bootstrap_of_sessions_covers_what_they_are_drawn_from() -> None:
    rng = np.random.default_rng(8)
    hits = 0
    for _ in range(120):
        # Turns of a session are alike: the session's own level, and a little of each turn.
        level = np.repeat(rng.normal(size=40), 5)
        ends = session_bootstrap(np.arange(200) // 5, level + 0.1 * rng.normal(size=200), 0.5)
        assert ends is not None
        hits += ends[0] <= 0.0 <= ends[1]  # type: ignore[operator]
    # A percentile interval is a little narrow; as if turns were independent it would be 0.6.
    assert hits / 120 > 0.88


def test_large_samples_are_drawn_by_rank() -> None:
    rng = np.random.default_rng(9)
    values, session = rng.normal(size=30_000), np.arange(30_000) % 50
    ends = session_bootstrap(session, values, 0.95)
    assert ends is not None
    # Nearly independent: the 95th percentile of a normal is 1.645, its standard error 0.0122.
    assert ends[1] - ends[0] == pytest.approx(2 * 1.96 * 0.0122, rel=0.35)  # type: ignore[operator]
    assert ends[0] - 0.01 < 1.645 < ends[1] + 0.01  # type: ignore[operator]


def test_work_intervals_leave_out_what_is_too_few() -> None:
    one = repeat(ttft_append=turns([1.0 + i for i in range(40)]), session=turns([1.0, 2.0]))
    assert set(work_intervals([one])) == {"ttft_p50_s"}  # type: ignore[list-item]
