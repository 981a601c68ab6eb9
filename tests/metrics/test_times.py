"""The law of times, each part by an edit that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from chipmark.engine.events import SINCE_2, Table
from chipmark.metrics.consistency import untrue_words
from chipmark.metrics.derive import derive
from chipmark.metrics.events import view
from chipmark.metrics.rawcell import CellFacts, RawCell, RepeatData, RunTiming
from chipmark.metrics.steps import covered, idle_seconds, uncovered, union
from chipmark.metrics.times import clock_notes, slow_marks
from chipmark.results.manifest import Manifest
from chipmark.results.raw import facts_of

Tables = dict[str, Table]
HOST = {"load__caps": {"clock": "host"}}
DEVICE = {"load__caps": {"clock": "device"}}
SIM = {"backend": "sim:golden"}


def facts(rawcells: ModuleType, **changes: Any) -> CellFacts:
    return facts_of(Manifest.model_validate(rawcells.manifest(**changes)))


def repeat(rawcells: ModuleType, tables: Tables | None = None, **changes: Any) -> RepeatData:
    tables = rawcells.tables() if tables is None else tables
    timing = RunTiming(**(rawcells.timing(tables) | changes))
    return RepeatData(tables, timing=timing)


def codes(data: RepeatData, of: CellFacts) -> list[str]:
    return [found.code for found in untrue_words(data, of)]


def moved(table: str, column: str, row: int, by: float) -> Callable[[Tables], None]:
    def edit(tables: Tables) -> None:
        tables[table][column][row] += by

    return edit


@pytest.mark.parametrize("kind", [HOST, DEVICE])
def test_whole_times_are_lawful(rawcells: ModuleType, kind: dict[str, Any]) -> None:
    assert untrue_words(repeat(rawcells), facts(rawcells, **kind)) == []


@pytest.mark.parametrize(
    "edit",
    [
        moved("steps", "submit_s", 3, 0.01),
        moved("steps", "wait_s", 3, -0.002),
        moved("steps", "visible_s", 3, -0.02),
        moved("steps", "submitted_s", 3, np.nan),
        moved("launches", "start_s", 3, -0.002),
        moved("launches", "end_s", 3, 0.001),
        moved("launches", "end_s", 3, np.nan),
        moved("turns", "first_token_s", 1, -0.001),
        moved("turns", "last_token_s", 1, -0.001),
        moved("window", "start_s", 0, -0.001),
        moved("window", "end_s", 0, 0.001),
        moved("window", "entered_s", 0, 0.003),
        moved("window", "left_s", 0, -0.001),
        moved("window", "simulated", 0, 1),
    ],
)
def test_a_time_that_does_not_fit_is_found(
    rawcells: ModuleType, edit: Callable[[Tables], None]
) -> None:
    tables = rawcells.tables()
    edit(tables)
    assert "clock" in codes(repeat(rawcells, tables), facts(rawcells))


def test_every_launch_at_one_moment_or_in_anothers_step_is_found(rawcells: ModuleType) -> None:
    for column in ("start_s", "end_s"):
        tables = rawcells.tables()
        tables["launches"][column][:] = tables["launches"]["start_s"][4]
        assert "clock" in codes(repeat(rawcells, tables), facts(rawcells))
    tables = rawcells.tables()
    tables["launches"]["step"][2:5] = tables["launches"]["step"][[3, 4, 2]]
    assert "clock" in codes(repeat(rawcells, tables), facts(rawcells))


def test_two_launches_of_a_step_may_not_overlap(rawcells: ModuleType) -> None:
    tables = rawcells.tables()
    # The second and third launches in one step, whose calls enclose both.
    tables["launches"]["step"][2] = tables["launches"]["step"][1]
    tables["steps"]["visible_s"][1] = tables["steps"]["visible_s"][2]
    lawful = codes(repeat(rawcells, tables), facts(rawcells))
    tables["launches"]["start_s"][2] -= 0.003
    assert codes(repeat(rawcells, tables), facts(rawcells)) == [*lawful, "clock"]


@pytest.mark.parametrize(
    ("kind", "by", "found"),
    [(HOST, 0.5e-6, 0), (HOST, 5e-6, 1), (DEVICE, 40e-6, 0), (DEVICE, 200e-6, 1)],
)
def test_a_device_counts_by_a_clock_of_its_own(
    rawcells: ModuleType, kind: dict[str, Any], by: float, found: int
) -> None:
    tables = rawcells.tables()
    tables["launches"]["end_s"][4] += by
    assert codes(repeat(rawcells, tables), facts(rawcells, **kind)) == ["clock"] * found


def test_a_long_launch_may_drift_by_a_thousandth(rawcells: ModuleType) -> None:
    tables = rawcells.tables()
    assert tables["launches"]["end_s"][0] - tables["launches"]["start_s"][0] > 0.099
    tables["launches"]["end_s"][0] += 0.9e-4
    assert codes(repeat(rawcells, tables), facts(rawcells, **DEVICE)) == []
    tables["launches"]["end_s"][0] += 0.9e-4
    assert codes(repeat(rawcells, tables), facts(rawcells, **DEVICE)) == ["clock"]


@pytest.mark.parametrize(
    "change",
    [
        {"sent_s": 100.0005},
        {"answered_s": 100.2795},
        {"ended_s": 100.2795},
        {"ended_s": 101.5},
        {"started_s": 98.5},
        {"started_s": None},
        {"ended_s": None},
        {"clock_before": (99.9, 99.8999, 99.91)},
        {"clock_before": (99.9, 99.9101, 99.91)},
        {"clock_after": (101.0, 100.5, 101.1)},
    ],
    ids=lambda change: "-".join(change),
)
def test_what_the_parent_saw_bounds_the_run(rawcells: ModuleType, change: dict[str, Any]) -> None:
    data = repeat(rawcells, **change)
    assert codes(data, facts(rawcells)) == ["clock"]
    simulated = rawcells.tables()
    simulated["window"]["simulated"][0] = 1
    assert codes(replace(data, events=simulated), facts(rawcells, **SIM)) == []


def test_marks_late_by_a_busy_machine_are_honest_and_a_slow_clock_is_not(
    rawcells: ModuleType,
) -> None:
    def notes(*lags: float) -> str:
        data = [repeat(rawcells, ended_s=100.281 + lag) for lag in lags]
        return slow_marks([view(d.events) for d in data], [d.timing for d in data])

    assert notes(0.6, 0.02, 0.3) == ""
    assert "at least 0.2" in notes(0.2, 0.3, 0.25)
    assert notes() == ""


def test_a_virtual_clock_is_that_of_simulated_devices_only(rawcells: ModuleType) -> None:
    tables = rawcells.tables()
    assert codes(repeat(rawcells, tables), facts(rawcells, **SIM)) == ["clock"]
    tables["window"]["simulated"][0] = 1
    assert codes(RepeatData(tables), facts(rawcells, **SIM)) == []
    assert codes(repeat(rawcells, tables), facts(rawcells)) == ["clock"]


def test_without_the_parents_clock_or_the_engines_nothing_is_believed(
    rawcells: ModuleType,
) -> None:
    assert codes(RepeatData(rawcells.tables()), facts(rawcells)) == ["clock"]
    tables = rawcells.tables()
    for name, columns in SINCE_2.items():
        for column, absent in columns.items():
            tables[name][column][:] = absent
    assert "clock" in codes(repeat(rawcells, tables), facts(rawcells))


def test_a_third_of_each_launch_is_found(rawcells: ModuleType) -> None:
    tables = rawcells.tables()
    launches = tables["launches"]
    took = launches["end_s"] - launches["start_s"]
    launches["end_s"] = launches["start_s"] + took / 3
    assert codes(repeat(rawcells, tables), facts(rawcells)) == ["uncovered_time"]
    launches["host_s"] += 2 * took / 3
    assert codes(repeat(rawcells, tables), facts(rawcells)) == ["uncovered_time"]
    launches["end_s"] = launches["start_s"] + 0.9 * took
    assert codes(repeat(rawcells, tables), facts(rawcells)) == []


def test_time_of_the_host_explains_nothing_where_the_device_is_the_host(
    rawcells: ModuleType,
) -> None:
    tables = rawcells.tables()
    launches = tables["launches"]
    took = launches["end_s"] - launches["start_s"]
    launches["end_s"] -= 0.4 * took
    launches["host_s"] += 0.4 * took
    assert codes(repeat(rawcells, tables), facts(rawcells)) == []
    for unit in ("package", "cpu-share"):
        of = facts(rawcells, chip__unit=unit)
        assert codes(repeat(rawcells, tables), of) == ["uncovered_time"]
        assert codes(repeat(rawcells), of) == []


def test_uncovered_time_counts_calls_only(rawcells: ModuleType) -> None:
    tables = rawcells.tables()
    found = uncovered(view(tables), on_host=False)
    # Ten launches, before each 0.5 ms inside submit in which the host prepares it.
    assert found.called_s == pytest.approx(0.275)
    assert found.outside_s == pytest.approx(0.005)
    assert found.unexplained_s == pytest.approx(0.0, abs=1e-12)
    # A step in flight while the engine plans another: that time is the engine's.
    tables["steps"]["wait_s"][0] += 0.02
    tables["launches"]["end_s"][0] -= 0.09
    found = uncovered(view(tables), on_host=False)
    assert found.called_s == pytest.approx(0.255)
    assert found.outside_s == pytest.approx(0.005 + 0.09 - 0.01)


def test_idle_is_what_turns_waited_for_beyond_launches(rawcells: ModuleType) -> None:
    tables = rawcells.tables()
    assert idle_seconds(view(tables)).value == pytest.approx(0.001)
    # 0.1 s of tool time between two turns is nobody's wait.
    turns = tables["turns"]
    for table, columns in (
        ("steps", ("submit_s", "submitted_s", "wait_s", "visible_s")),
        ("launches", ("start_s", "end_s")),
    ):
        for column in columns:
            tables[table][column][4:] += 0.1
    for column in ("intended_s", "admitted_s", "first_token_s", "last_token_s"):
        turns[column][1:] += 0.1
    tables["window"]["end_s"] += 0.1
    assert idle_seconds(view(tables)).value == pytest.approx(0.001)
    turns["intended_s"][1] -= 0.1
    assert idle_seconds(view(tables)).value == pytest.approx(0.011)


def test_intervals() -> None:
    starts, ends = np.array([3.0, 0.0, 1.0, 5.0]), np.array([4.0, 2.0, 1.5, 5.0])
    assert [x.tolist() for x in union(starts, ends)] == [[0.0, 3.0], [2.0, 4.0]]
    by = np.array([1.0, 3.5]), np.array([3.25, 9.0])
    assert covered(starts, ends, *by) == pytest.approx(1.0 + 0.25 + 0.5)
    assert covered(starts, ends, np.zeros(0), np.zeros(0)) == 0.0


def test_ids_come_with_their_logits_and_for_every_token(rawcells: ModuleType) -> None:
    tables, of = rawcells.tables(), facts(rawcells)
    tables["rows"]["sampled"][2] = -1
    assert codes(repeat(rawcells, tables), of) == ["ids"]
    tables["rows"]["sampled"][:] = -1
    assert codes(repeat(rawcells, tables), of) == []
    for column, value in (("best_logit", np.nan), ("second_logit", 3.5)):
        tables = rawcells.tables()
        tables["rows"][column][2] = value
        assert codes(repeat(rawcells, tables), of) == ["ids"]


def test_one_id_for_every_context_is_found(
    rawcells: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chipmark.metrics.consistency.CONSTANT_IDS", 10)
    tables, of = rawcells.tables(), facts(rawcells)
    tables["rows"]["sampled"][:] = 0
    assert codes(repeat(rawcells, tables), of) == ["ids"]
    tables["rows"]["sampled"][4] = 5
    assert codes(repeat(rawcells, tables), of) == []


def test_the_row_gets_the_note_that_bars_it(rawcells: ModuleType) -> None:
    of = facts(rawcells)
    slow = rawcells.tables()
    slow["launches"]["end_s"] -= 0.7 * (slow["launches"]["end_s"] - slow["launches"]["start_s"])

    def notes(*repeats: RepeatData) -> list[tuple[str, str]]:
        raw = RawCell(of, rawcells.trace(), repeats)
        assert [n for n in derive(raw).notes if n[0] == "clock"] == clock_notes(
            raw, [view(r.events) for r in repeats]
        )
        return clock_notes(raw, [view(r.events) for r in repeats])

    whole = repeat(rawcells)
    assert notes(whole, whole) == []
    assert notes(RepeatData(whole.events)) == []
    (found,) = notes(whole, replace(whole, events=slow))
    assert found[0] == "clock"
    assert "repeat 1" in found[1]
    assert "neither launch nor host time" in found[1]
    late = [replace(whole, timing=replace(whole.timing, ended_s=100.8)) for _ in range(2)]
    assert "the parent saw the run last" in notes(*late)[0][1]
