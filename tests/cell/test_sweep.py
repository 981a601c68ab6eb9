from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from chipmark.cell import measure
from chipmark.cell.measure import MeasuredCell
from chipmark.cell.parent import ChildProcess
from chipmark.cell.protocol import ChildSpec, Load
from chipmark.cell.room import Room
from chipmark.cell.settings import RunOptions
from chipmark.cell.sweep import Capacity, Tried, capacity_notes, find_capacity, sweep_point
from chipmark.engine.contract import LoadSpec
from chipmark.engine.events import save_events
from chipmark.errors import DoesNotFitError
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
            [tmp_path / "events.npz"], tmp_path / "none", 1, Slo(), None, rawcells.trace()
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
        [tmp_path / "events.npz"], tmp_path / "none", 1, Slo(), None, rawcells.trace()
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


class _Child:
    """A child that holds `fitting` sequences, and says so."""

    def __init__(self, cell: MeasuredCell, fitting: int, *, paged: bool) -> None:
        asked = cell.room.kv_sequences if paged else cell.room.sequences
        self.fits, self.fitting = asked <= fitting, fitting

    def answer_to(self, request: Load, timeout_s: float) -> SimpleNamespace:
        if not self.fits:
            raise DoesNotFitError("KV does not fit", sequences=self.fitting)
        return SimpleNamespace(peak_rss_bytes=1, refused_plugins=())

    def park(self) -> None: ...

    def kill(self) -> None: ...


@pytest.mark.parametrize(("paged", "room"), [(True, Room(64, 26)), (False, Room(26, 26))])
def test_a_child_is_loaded_again_for_what_fits(
    monkeypatch: pytest.MonkeyPatch, paged: bool, room: Room
) -> None:
    def loading(scenario: str, fitting: int) -> MeasuredCell:
        cell = object.__new__(MeasuredCell)
        plan = SimpleNamespace(scenario=scenario, backend="sim:x", replicas=1, concurrency=64)
        cell.inputs = SimpleNamespace(plan=plan, settings=RunOptions(), chip=None)
        cell.backends, cell.siblings = ("sim:x",), []
        monkeypatch.setattr(cell, "_settle", lambda: None)
        monkeypatch.setattr(measure, "check_loaded", lambda answer: None)
        cell.notes = []
        cell.answer, cell.peak_rss_bytes, cell.room = None, 0, Room(64, 64)
        start = lambda: setattr(cell, "child", _Child(cell, fitting, paged=paged))  # noqa: E731
        monkeypatch.setattr(cell, "_start_children", start)
        start()
        return cell

    cell = loading("capacity", 26)
    cell.finish_load()
    assert cell.room == room
    for scenario, fitting in (("equal_n", 26), ("capacity", 0)):
        with pytest.raises(DoesNotFitError):
            loading(scenario, fitting).finish_load()


def test_a_real_child_says_how_many_sequences_would_fit(tmp_path: Path) -> None:
    spec = ChildSpec(
        backend="sim:golden-slots", feedback="forced",
        load=LoadSpec(
            model={"vocab_size": 512}, precision="fp32", n_seqs=1000, max_context=32768,
            kv_tokens=0, max_chunk=256, threads=1, scratch=str(tmp_path),
        ),
    )  # fmt: skip
    with (
        ChildProcess(spec.to_json(), tmp_path / "child") as child,
        pytest.raises(DoesNotFitError, match="do not fit") as caught,
    ):
        child.ask("load", 60.0)
    # 63.5 GB beside the weights, 50 kB a token, one slot of them reserved for a prefix.
    assert caught.value.sequences == 63_500_000_000 // 50_000 // 32768 - 1
