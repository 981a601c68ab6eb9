"""Idle time of steps, and time in which no turn was outstanding."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from chipmark.metrics.events import view
from chipmark.metrics.steps import idle_seconds
from chipmark.metrics.waiting import nobody_waits_s


def test_launches_that_overlap_count_once_and_late_ones_are_idle(rawcells: ModuleType) -> None:
    tables = rawcells.tables()
    launches = tables["launches"]
    # The whole cell is outstanding: 0.280 s, 10 steps, 0.270 s of launches.
    assert idle_seconds(view(tables)).value == pytest.approx(0.001)
    # A launch said to have begun at once, beside the one before it: nothing is gained by it.
    launches["start_s"][5] -= 0.003
    assert idle_seconds(view(tables)).value == pytest.approx((0.010 - 0.001) / 10)
    # A device that says a third of its time leaves the rest as idle.
    tables = rawcells.tables()
    launches = tables["launches"]
    launches["start_s"] += (launches["end_s"] - launches["start_s"]) * 2 / 3
    assert idle_seconds(view(tables)).value == pytest.approx((0.010 + 0.180) / 10)


def test_an_unfinished_turn_is_outstanding_to_the_end(rawcells: ModuleType) -> None:
    tables = rawcells.tables()
    turns = tables["turns"]
    turns["status"][3] = 3
    turns["last_token_s"][3] = np.nan
    assert nobody_waits_s(view(tables)) == pytest.approx(0.0, abs=1e-9)
    # A turn that failed before it began waits for nobody: its 61 ms of W are free.
    turns["status"][3] = 1
    assert nobody_waits_s(view(tables)) == pytest.approx(0.061)
