"""Idle power by the row's meter and the others: files, seals, and a meter that fails."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from chipmark.cell import stages
from chipmark.cell.idle import IdleOfLoaded
from chipmark.cell.inputs import CellInputs
from chipmark.cell.measure import MeasuredCell
from chipmark.cell.metering import Metering
from chipmark.cell.protocol import Idle
from chipmark.cell.suite import CellPlan
from chipmark.chips.contract import ChipIdentity
from chipmark.errors import CellFailedError
from chipmark.meters.contract import MeterInfo, PowerSamples
from chipmark.meters.pick import Picked
from chipmark.meters.replay import ReplayMeter, load_samples, save_samples
from chipmark.results.manifest import ModelId

CARD = ChipIdentity("ascend-910b3", "Huawei", "910B3", "card", 1, 1)


class Child:
    """Does nothing when it is asked to."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def wake(self) -> None:
        self.calls.append("wake")

    def park(self) -> None:
        self.calls.append("park")

    def send_request(self, request: Idle) -> None:
        self.calls.append(f"idle {request.seconds:g}")

    def answer_to(self, request: Idle, limit_s: float) -> None:
        assert limit_s > request.seconds


def meter(name: str, watts: float, source: Any = "polled") -> ReplayMeter:
    info = MeterInfo(name, source, "board", "paper", 0.1)
    return ReplayMeter(info, PowerSamples(np.arange(2.0), np.full(2, np.nan), np.full(2, watts)))


class Broken(ReplayMeter):
    def stop(self) -> PowerSamples:
        raise OSError("unplugged")


def cell_of(folder: Path, rawcells: ModuleType, meters: Picked) -> tuple[MeasuredCell, Child]:
    plan = SimpleNamespace(
        backend="torch:npu", precision="fp32", concurrency=1, scenario="equal_n", title="t"
    )
    inputs = CellInputs(
        plan=cast("CellPlan", plan),
        trace=rawcells.trace(),
        model=cast("ModelId", SimpleNamespace(source_kind="sim")),
        in_use=None,
        chip=CARD,
        meters=meters,
        repeats=1,
    )
    cell, child = MeasuredCell(inputs, folder / "cell", cast("Any", None)), Child()
    cell.prepare()
    cell.child = cast("Any", child)
    cell.metering = Metering(meters)
    return cell, child


def test_all_meters_read_the_idle_device(tmp_path: Path, rawcells: ModuleType) -> None:
    meters = Picked(meter("card", 50.0), (meter("Rack PDU", 90.0), Broken(meter("x", 0.0).info)))
    cell, child = cell_of(tmp_path, rawcells, meters)
    stages.idle_before(cell)
    assert child.calls == ["wake", "idle 31", "park"]
    assert sorted(path.name for path in cell.folder.glob("idle*")) == [
        "idle-before-rack-pdu.npz",
        "idle-before.npz",
    ]
    assert set(load_samples(cell.folder / "idle-before.npz").power_w) == {50.0}
    assert set(load_samples(cell.folder / "idle-before-rack-pdu.npz").power_w) == {90.0}
    assert [note.text for note in cell.notes] == ["x: did not stop: OSError: unplugged"]
    cell.seals.check()


@pytest.mark.parametrize("name", ["idle-before-rack-pdu.npz", "idle-before-x.npz"])
def test_what_another_process_writes_there_is_found(
    tmp_path: Path, rawcells: ModuleType, name: str
) -> None:
    meters = Picked(meter("card", 50.0), (meter("Rack PDU", 90.0), Broken(meter("x", 0.0).info)))
    cell, _ = cell_of(tmp_path, rawcells, meters)
    stages.idle_before(cell)
    save_samples(cell.folder / name, meter("forged", 1.0).stop())
    with pytest.raises(CellFailedError, match=name):
        cell.seals.check()


def test_a_cell_that_ends_is_not_metered_any_longer(
    tmp_path: Path, rawcells: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counted(ReplayMeter):
        stopped = 0

        def stop(self) -> PowerSamples:
            self.stopped += 1
            return super().stop()

    own, other = Counted(meter("card", 50.0).info), Counted(meter("pdu", 90.0).info)
    cell, child = cell_of(tmp_path, rawcells, Picked(own, (other,)))

    def died(request: Idle, limit_s: float) -> None:
        raise CellFailedError("the child ended")

    monkeypatch.setattr(child, "answer_to", died)
    with pytest.raises(CellFailedError):
        stages.idle_before(cell)
    assert (own.stopped, other.stopped) == (1, 1)


@pytest.mark.parametrize(
    ("source", "measured"),
    [("counter", True), ("polled", True), ("wall", True), ("declared", False), ("assumed", False)],
)
def test_idle_is_measured_where_the_rows_meter_measures(
    tmp_path: Path, rawcells: ModuleType, source: str, measured: bool
) -> None:
    cell, child = cell_of(
        tmp_path, rawcells, Picked(meter("card", 50.0, source), (meter("pdu", 90.0),))
    )
    stages.idle_after(cell)
    assert bool(child.calls) == measured
    assert bool(list(cell.folder.glob("idle*"))) == measured


def _idle_again(
    folder: Path, rawcells: ModuleType, known: IdleOfLoaded, **model: str
) -> tuple[MeasuredCell, Child]:
    card = meter("card", 50.0)
    cell, child = cell_of(folder, rawcells, Picked(card, (meter("pdu", 90.0),)))
    identity = cast(
        "ModelId", SimpleNamespace(**{"source_kind": "sim", "weights_hash": "w"} | model)
    )
    cell.inputs = replace(cell.inputs, model=identity)
    stages.idle_once(cell, known)
    return cell, child


def test_idle_is_measured_once_for_a_loaded_model_and_device(
    tmp_path: Path, rawcells: ModuleType
) -> None:
    now = [0.0]
    known = IdleOfLoaded(lambda: now[0])
    first, child = _idle_again(tmp_path / "a", rawcells, known)
    assert child.calls == ["wake", "idle 31", "park"]
    assert first.notes == []
    # What a measured process does to the first cell's file later is not what the next one gets.
    measured = (first.folder / "idle-before.npz").read_bytes()
    (first.folder / "idle-before.npz").write_bytes(b"forged")
    now[0] = 600.0
    second, child = _idle_again(tmp_path / "b", rawcells, known)
    assert child.calls == []
    assert (second.folder / "idle-before.npz").read_bytes() == measured
    assert (second.folder / "idle-before-pdu.npz").is_file()
    (note,) = second.notes
    assert note.code == "idle_reused"
    assert "600 s before" in note.text
    second.seals.check()
    (second.folder / "idle-before.npz").write_bytes(b"forged")
    with pytest.raises(CellFailedError, match=r"idle-before\.npz"):
        second.seals.check()


@pytest.mark.parametrize("what", ["another model", "another card", "an hour later"])
def test_idle_of_another_model_or_card_or_an_old_one_is_measured_anew(
    tmp_path: Path, rawcells: ModuleType, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    known = IdleOfLoaded(lambda: now[0])
    _idle_again(tmp_path / "a", rawcells, known)
    if what == "another card":
        other = replace(CARD, context={"uuid": "GPU-2"})
        monkeypatch.setattr(sys.modules[__name__], "CARD", other)
    model = {"weights_hash": "v"} if what == "another model" else {}
    now[0] = 3601.0 if what == "an hour later" else 1.0
    cell, child = _idle_again(tmp_path / "b", rawcells, known, **model)
    assert child.calls == ["wake", "idle 31", "park"]
    assert cell.notes == []
