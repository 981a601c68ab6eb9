"""Whether a cell would end in the time that is left."""

from __future__ import annotations

from chipmark.cell.pace import Pace
from chipmark.cell.suite import CellPlan


def plan(model: str, estimate_s: float, concurrency: int = 1) -> CellPlan:
    return CellPlan(
        "triton:cuda", model, "bf16", "w", "profile", "full", 2, concurrency, "equal_n",
        estimate_s=estimate_s,
    )  # fmt: skip


def test_a_cell_that_would_not_end_is_not_begun() -> None:
    pace = Pace()
    assert pace.too_long([plan("8b", 100.0)], 100.0) == ""
    assert pace.too_long([plan("8b", 100.0)], 99.0) == "takes about 100 s, of which 99 s are left"
    assert "0 s are left" in pace.too_long([plan("8b", 100.0)], -5.0)


def test_cells_without_an_estimate_are_always_begun() -> None:
    assert Pace().too_long([plan("8b", 0.0)], -1.0) == ""
    assert Pace().too_long([], -1.0) == ""


def test_what_the_first_cells_took_corrects_what_is_expected_of_the_others() -> None:
    pace = Pace()
    pace.took([plan("8b", 100.0)], 50.0)
    pace.took([plan("1.7b", 100.0)], 30.0)
    assert pace.expected_s([plan("0.6b", 100.0)]) == 40.0
    pace.took([plan("none", 0.0)], 1000.0)
    assert pace.factor == 0.4


def test_idle_power_is_expected_once_for_a_model_and_is_not_scaled() -> None:
    pace = Pace(idle_s=31.0)
    assert pace.expected_s([plan("8b", 100.0)]) == 131.0
    pace.took([plan("8b", 100.0)], 81.0)
    assert pace.factor == 0.5
    assert pace.expected_s([plan("8b", 100.0, 64)]) == 50.0
    assert pace.expected_s([plan("0.6b", 100.0)]) == 81.0


def test_an_estimate_makes_no_other_cell_of_it() -> None:
    assert plan("8b", 1.0) == plan("8b", 2.0)
    assert hash(plan("8b", 1.0)) == hash(plan("8b", 2.0))
