from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from types import ModuleType
from typing import Any

import pytest

from chipmark.meters.contract import MeterInfo
from chipmark.metrics.derive import Derived, derive
from chipmark.metrics.rawcell import CellFacts, RawCell, RepeatData, Roofs, SloLimits
from chipmark_models.config import ModelConfig

METER = MeterInfo("hand", "counter", "board", "hand", update_period_s=0.001, error_rel=0.02)


@pytest.fixture
def cell(rawcells: ModuleType) -> Callable[..., RawCell]:
    """Makes the cell of `tests/rawcells.py` in memory: a repeat for each of `slows`, which
    multiplies its times; `power` and `roofs` of every repeat, and fields of its facts."""

    def make(slows: tuple[float, ...] = (1.0,), **changes: Any) -> RawCell:
        roofs = changes.pop("roofs", Roofs(10**6, 2e6, 2e6, 1e6, 1e6, 1000))
        power = changes.pop("power", lambda a, b: rawcells.counter(20.0, a, b))
        facts = CellFacts(
            scenario="equal_n",
            concurrency=1,
            slo=SloLimits(),
            scale=(Fraction(1, 16), Fraction(1, 16), Fraction(0)),
            loop="closed",
            meter=METER,
            unit="card",
            used=1,
            of=1,
            config=ModelConfig.from_dict(rawcells.TINY),
            weights_precision="fp32",
            kv_precision="fp32",
        )
        repeats = []
        for index, slow in enumerate(slows):
            events = rawcells.tables(slow, 100.0 + 10 * index)
            bounds = (float(events["window"][c][0]) for c in ("start_s", "end_s"))
            repeats.append(RepeatData(events, power(*bounds) if power else None, roofs))
        return RawCell(replace(facts, **changes), rawcells.trace(), tuple(repeats))

    return make


@pytest.fixture
def values(cell: Callable[..., RawCell]) -> Callable[..., Derived]:
    """The metrics of such a cell."""
    return lambda **changes: derive(cell(**changes))
