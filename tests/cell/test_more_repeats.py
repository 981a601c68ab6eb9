from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from chipmark.cell import more_repeats
from chipmark.cell.more_repeats import add_repeats, share_of
from chipmark.cell.steadiness import MOST_REPEATS, Steadiness, of_metrics
from chipmark.metrics.derive import Derived
from chipmark.results.manifest import Note


@dataclass
class Cell:
    """A cell whose interval is `widths[n]` after n repeats, the last one for ever."""

    widths: list[float | None]
    repeats_done: int = 3
    repeat_s: float = 10.0
    check_s: float = 5.0
    idle_s: float = 0.0
    alive: bool = True
    notes: list[Note] = field(default_factory=list)


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch):
    def look(cell: Cell) -> Steadiness:
        width = cell.widths[min(cell.repeats_done, len(cell.widths) - 1)]
        return Steadiness("total_tok_s", cell.repeats_done, width)

    monkeypatch.setattr(more_repeats, "steadiness", look)
    clock = {"now": 0.0}

    def run(cells: list[Cell], until_s: float, **more: float) -> list[tuple[int, ...]]:
        rounds: list[tuple[int, ...]] = []

        def once(repeat: int, which, text: str) -> None:
            rounds.append(tuple(which))
            for index in which:
                cells[index].repeats_done += 1
                clock["now"] += cells[index].repeat_s

        add_repeats(cells, until_s, once, lambda: clock["now"], **more)
        return rounds

    return run


def test_steady_cells_are_not_repeated_and_say_nothing(add) -> None:
    cells = [Cell([0.05]), Cell([0.099])]
    assert add(cells, 1e9) == []
    assert not any(cell.notes for cell in cells)


def test_only_the_unsteady_cell_is_repeated_until_its_interval_is_narrow(add) -> None:
    cells = [Cell([0.05]), Cell([None, None, None, 0.3, 0.2, 0.08])]
    assert add(cells, 1e9) == [(1,), (1,)]
    assert cells[0].notes == []
    (note,) = cells[1].notes
    assert note.code == "repeats_added"
    assert note.text == "total_tok_s is within ±8.0% after 5 repeats"


def test_the_budget_ends_it_and_the_row_says_so(add) -> None:
    cells = [Cell([0.4]), Cell([0.05])]
    # 10 s a repeat and 10 s of checks: two rounds fit into 35 s, not three.
    assert add(cells, 35.0) == [(0,), (0,)]
    (note,) = cells[0].notes
    assert note.text.startswith("total_tok_s is within ±40.0% after 5 repeats; the time budget")


def test_the_audit_has_its_time_within_the_budget(add) -> None:
    """Parity took 2 s, as its reference lay in the cache; the audit's places are new every time."""
    assert add([Cell([0.4], check_s=2.0)], 35.0, audit_s=30.0) == []
    assert len(add([Cell([0.4], check_s=2.0)], 50.0, audit_s=30.0)) == 2


def test_idle_power_has_its_time_within_the_budget(add) -> None:
    assert add([Cell([0.4], idle_s=31.0)], 45.0) == []
    assert len(add([Cell([0.4], idle_s=31.0)], 47.0)) == 1


def test_no_group_spends_the_time_of_those_after_it() -> None:
    assert share_of(240.0, 0.0, 1) == 240.0
    assert share_of(240.0, 0.0, 4) == 60.0
    assert share_of(240.0, 180.0, 2) == 210.0
    assert share_of(240.0, 500.0, 2) == 500.0


def test_a_budget_that_is_spent_already_is_told_of_too(add) -> None:
    cells = [Cell([0.4])]
    assert add(cells, 0.0) == []
    assert "after 3 repeats; the time budget" in cells[0].notes[0].text


def test_a_failed_cell_is_left_alone_and_no_cell_is_repeated_for_ever(add) -> None:
    cells = [Cell([0.4], alive=False), Cell([0.4], repeat_s=0.0, check_s=0.0)]
    rounds = add(cells, 1e9)
    assert set(rounds) == {(1,)}
    assert cells[1].repeats_done == MOST_REPEATS
    assert cells[0].notes == []


def derived(metrics, intervals, reasons=None, notes=()):
    return Derived(metrics, (), intervals, reasons or {}, tuple(notes))


def test_the_ranked_metric_decides() -> None:
    metrics = {"total_tok_s": 100.0, "ttft_p50_s": 1.0, "ttft_p95_s": None}
    intervals = {"total_tok_s": (95.0, 105.0), "ttft_p50_s": (0.5, 1.5)}
    assert of_metrics(derived(metrics, intervals), "equal_n", 3).half_width == pytest.approx(0.05)
    bound = of_metrics(
        derived(metrics, intervals, notes=[("load_bound", "open loop")]), "equal_n", 3
    )
    assert (bound.metric, bound.half_width) == ("ttft_p50_s", pytest.approx(0.5))


def test_without_an_interval_more_is_needed_and_a_hopeless_metric_needs_none() -> None:
    metrics = {"total_tok_s": 100.0}
    assert not of_metrics(derived(metrics, {}), "equal_n", 1).enough
    lost = derived({"sessions_per_hour": None}, {}, {"sessions_per_hour": "tool_time_scaled"})
    assert of_metrics(lost, "capacity", 3).enough
