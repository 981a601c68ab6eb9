from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from chipmark.workload.distribution import Distribution, LognormalPart
from chipmark.workload.draws import DrawStream
from chipmark.workload.quantile_tables import (
    EXP2_BITS,
    LOG2_E,
    MEAN_ONE_BITS,
    NORMAL_BITS,
    TABLE_SIZE,
    lognormal,
    make_tables,
    mean_one,
    table,
)

GOLDEN_WORDS = [8869400335176439159, 13883916725070737074]
GOLDEN_IDS = [12763, 12336, 15434, 22854, 230]


def test_a_streams_words_are_these_on_every_machine() -> None:
    stream = DrawStream(0, "agent-code-32k", 3, "append")
    assert [stream.word() for _ in range(2)] == GOLDEN_WORDS
    assert DrawStream(0, "x").token_ids(5, 32, 49152).tolist() == GOLDEN_IDS


def test_streams_differ_by_every_part_of_their_name() -> None:
    names = [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a", "1"), (0, "a,1")]
    assert len({DrawStream(*name).word() for name in names}) == len(names)


def test_seeking_reads_the_words_of_that_counter() -> None:
    stream = DrawStream("key")
    first = stream.token_ids(3, 0, 1 << 30).tolist()
    stream.seek(5)
    there = stream.token_ids(3, 0, 1 << 30).tolist()
    stream.seek(0)
    assert stream.token_ids(3, 0, 1 << 30).tolist() == first != there
    plain = np.random.Philox(key=9, counter=5 << 64)
    other = np.random.Philox(key=9)
    stream._bits = other
    stream.word()
    stream.seek(5)
    assert [stream.word() for _ in range(7)] == plain.random_raw(7).tolist()


def test_token_ids_fill_their_range_and_stay_inside() -> None:
    ids = DrawStream("range").token_ids(4000, 10, 20)
    assert set(ids.tolist()) == set(range(10, 20))
    assert ids.dtype == np.int32


@pytest.mark.parametrize("name", ["normal", "exponential", "gamma_cv4", "exp2"])
def test_the_committed_tables_are_what_scipy_gives(name: str) -> None:
    made, kept = make_tables()[name], np.array(table(name))
    assert kept.size == TABLE_SIZE
    # Another version of scipy may differ in the last bits of a double; the file does not change.
    np.testing.assert_allclose(kept, made, rtol=1e-9, atol=2)


def test_tables_have_the_moments_of_their_distributions() -> None:
    normal = np.array(table("normal")) / 2.0**NORMAL_BITS
    assert abs(normal.mean()) < 1e-9
    assert normal.std() == pytest.approx(1.0, abs=1e-3)
    for name, cv in (("exponential", 1.0), ("gamma_cv4", 4.0)):
        values = np.array(table(name)) / 2.0**MEAN_ONE_BITS
        assert values.mean() == pytest.approx(1.0, abs=1e-9)
        assert values.std() == pytest.approx(cv, rel=3e-3)


def test_fixed_point_powers_match_floating_point() -> None:
    assert float(LOG2_E) == np.log2(np.e)
    z = np.array(table("normal")) / 2.0**NORMAL_BITS
    expected = 18_500_000 * np.exp(1.15 * z)
    got = np.array(lognormal(18_500_000, Fraction("1.15")))
    assert np.max(np.abs(got / expected - 1.0)) < 2e-4
    assert table("exp2")[TABLE_SIZE // 2] / 2.0**EXP2_BITS == pytest.approx(2**0.5)


def test_a_sigma_of_zero_is_the_median_itself() -> None:
    assert set(lognormal(21, Fraction(0))) == {21}


def test_gaps_with_mean_one_keep_the_mean_asked_for() -> None:
    values = [mean_one("gamma_cv4", 390_000, rank) for rank in range(TABLE_SIZE)]
    assert sum(values) / TABLE_SIZE == pytest.approx(390_000, rel=1e-4)


def test_a_mixture_draws_its_parts_by_weight_and_clips() -> None:
    parts = (LognormalPart(3, 10, Fraction(0)), LognormalPart(1, 1000, Fraction(0)))
    mixture = Distribution(parts, 1, 500, "test")
    stream = DrawStream("mixture")
    values = [mixture.draw(stream) for _ in range(2000)]
    assert set(values) == {10, 500}
    assert values.count(500) == pytest.approx(500, abs=80)
    assert mixture.quantile(Fraction(1, 2)) == 10
    assert mixture.quantile(Fraction(9, 10)) == 500
