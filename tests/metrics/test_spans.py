"""Spans of time, and the idle time of a step whose launches overlap others."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from chipmark.metrics.events import view
from chipmark.metrics.spans import length_s, shared_s, union
from chipmark.metrics.steps import idle_per_step, nobody_waits_s


def spans(*pairs: tuple[float, float], low: float = -9.0, high: float = 9.0) -> np.ndarray:
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return union(table[:, 0], table[:, 1], low, high)


def test_spans_are_joined_clipped_and_sorted() -> None:
    assert spans((4, 5), (0, 2), (1, 3), (3, 3.5), (7, 7)).tolist() == [[0, 3.5], [4, 5]]
    # A long span hides the end of a short one that begins later.
    assert spans((0, 8), (1, 2), (7.5, 9.0)).tolist() == [[0, 9]]
    assert spans((0, 2), (3, 9), low=1, high=4).tolist() == [[1, 2], [3, 4]]
    assert spans((0, np.nan), (np.nan, 1), (2, 1)).tolist() == []
    assert length_s(spans()) == 0.0


def test_what_two_sets_of_spans_share() -> None:
    a, b = spans((0, 2), (4, 6)), spans((1, 5))
    assert shared_s(a, b) == pytest.approx(2.0)
    assert shared_s(a, spans((2, 4))) == 0.0
    assert shared_s(a, spans()) == 0.0


def test_launches_that_overlap_count_once_and_late_ones_are_idle(rawcells: ModuleType) -> None:
    tables = rawcells.tables()
    launches = tables["launches"]
    # The whole cell is outstanding: 0.280 s, 10 steps, 0.270 s of launches.
    assert idle_per_step(view(tables)).value == pytest.approx(0.001)
    # A launch said to have begun at once, beside the one before it: nothing is gained by it.
    launches["start_s"][5] -= 0.003
    assert idle_per_step(view(tables)).value == pytest.approx((0.010 - 0.001) / 10)
    # A device that says a third of its time leaves the rest as idle.
    tables = rawcells.tables()
    launches = tables["launches"]
    launches["start_s"] += (launches["end_s"] - launches["start_s"]) * 2 / 3
    assert idle_per_step(view(tables)).value == pytest.approx((0.010 + 0.180) / 10)


def test_an_unfinished_turn_is_outstanding_to_the_end(rawcells: ModuleType) -> None:
    tables = rawcells.tables()
    turns = tables["turns"]
    turns["status"][3] = 3
    turns["last_token_s"][3] = np.nan
    assert nobody_waits_s(view(tables)) == pytest.approx(0.0, abs=1e-9)
    # A turn that failed before it began waits for nobody: its 61 ms of W are free.
    turns["status"][3] = 1
    assert nobody_waits_s(view(tables)) == pytest.approx(0.061)
