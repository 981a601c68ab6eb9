from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chipmark.cell.room import Room
from chipmark.cell.sweep import Capacity, Tried, capacity_notes, find_capacity, sweep_point
from chipmark.engine.events import save_events
from chipmark.results.manifest import Slo, SweepPoint


def tried(n: int, met: bool) -> Tried:
    share = 0.99 if met else 0.5
    return Tried(
        SweepPoint(concurrency=n, slo_attainment=share, turns=9, sessions_per_hour=1.0), met
    )


@pytest.mark.parametrize(
    ("true_best", "largest", "expected", "cut"),
    [
        (5, 16, 5, False),
        (1, 16, 1, False),
        (0, 16, 0, False),
        (16, 16, 16, True),
        (20, 16, 16, True),
        (11, 12, 11, False),
        (7, 7, 7, True),
        (1, 1, 1, True),
        (0, 1, 0, False),
    ],
)
def test_largest_number_that_meets_the_share_is_found(
    true_best: int, largest: int, expected: int, cut: bool
) -> None:
    asked: list[int] = []

    def measure(n: int) -> Tried:
        asked.append(n)
        return tried(n, n <= true_best)

    found = find_capacity(measure, largest)
    assert (found.best, found.cut) == (expected, cut)
    assert max(asked) <= largest
    assert len(asked) == len(set(asked)) <= 9
    assert [p.concurrency for p in found.points] == sorted(asked)


def test_what_bars_a_price_has_a_code_of_its_own() -> None:
    slo = Slo()
    assert [note.code for note in capacity_notes(Capacity(0, False, ()), slo)] == ["slo_not_met"]
    assert [note.code for note in capacity_notes(Capacity(8, True, ()), slo)] == ["capacity_cut"]
    assert capacity_notes(Capacity(8, False, ()), slo) == []


def test_a_point_without_turns_or_without_a_completed_session_is_a_miss(
    rawcells, tmp_path: Path
) -> None:
    def point(tables) -> Tried:
        save_events(tmp_path / "events.npz", tables)
        return sweep_point(
            tmp_path / "events.npz", tmp_path / "none", 1, Slo(), None, rawcells.trace()
        )

    tables = rawcells.tables()
    whole = point(tables)
    assert whole.met
    assert whole.point.sessions_per_hour == pytest.approx(3600 * 2 / rawcells.WINDOW_S)
    tables["sessions"]["status"][:] = 3
    assert not point(tables).met
    assert point(tables).point.slo_attainment == 1.0
    empty = {name: {c: v[:0] for c, v in table.items()} for name, table in tables.items()}
    empty["window"] = tables["window"]
    assert not point(empty).met
    assert point(empty).point.slo_attainment is None


def test_a_point_whose_window_is_not_whole_passes_has_no_rate(rawcells, tmp_path: Path) -> None:
    tables = rawcells.tables()
    tables["sessions"]["status"][1] = 3
    tables["sessions"]["end_s"][1] = np.nan
    save_events(tmp_path / "events.npz", tables)
    found = sweep_point(
        tmp_path / "events.npz", tmp_path / "none", 1, Slo(), None, rawcells.trace()
    )
    assert found.met
    assert found.point.sessions_per_hour is None


def test_a_sweep_that_memory_cannot_hold_to_its_end_is_loaded_smaller() -> None:
    paged = Room(64, 64).less(26)
    assert paged == Room(64, 26)
    slots = paged.less(26)
    assert slots == Room(26, 26)
    assert slots.less(26) is None
    assert Room(64, 64).less(0) is None
