"""The order of the arms: from a seed, balanced, and only added to by a next look."""

from __future__ import annotations

import pytest

from chipmark.ab.schedule import slots


def test_the_order_is_that_of_its_seed():
    assert slots(16, 7) == slots(16, 7)
    assert len({tuple(s.arm for s in slots(16, seed)) for seed in range(20)}) > 15
    assert [s.arm for s in slots(16, 7)] != [s.arm for s in slots(16, 7, session=1)]


def test_the_order_of_seed_0_is_pinned():
    assert "".join(s.arm for s in slots(6, 0)) == "ABBAABBAABBA"


@pytest.mark.parametrize("rounds", [2, 6, 10, 16])
@pytest.mark.parametrize("seed", range(5))
def test_blocks_are_abba_or_baab_and_means_of_places_agree(rounds, seed):
    order = slots(rounds, seed)
    assert [s.slot for s in order] == list(range(2 * rounds))
    arms = "".join(s.arm for s in order)
    assert {arms[i : i + 4] for i in range(0, len(arms), 4)} <= {"ABBA", "BAAB"}
    places = {arm: sum(s.slot for s in order if s.arm == arm) for arm in "AB"}
    assert places["A"] == places["B"]
    for number in range(rounds):
        assert sorted(s.arm for s in order if s.round == number) == ["A", "B"]


def test_a_longer_order_begins_with_the_shorter():
    assert slots(16, 3)[:12] == slots(6, 3)


def test_no_rounds_are_no_order():
    with pytest.raises(ValueError, match="0 rounds"):
        slots(0, 1)
