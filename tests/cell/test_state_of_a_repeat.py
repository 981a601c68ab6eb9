from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from chipmark.cell import measure, repeat, stages
from chipmark.cell.inputs import CellInputs
from chipmark.cell.measure import MeasuredCell
from chipmark.cell.protocol import (
    Clock,
    ClockAnswer,
    LoadAnswer,
    Probe,
    ProbeAnswer,
    Run,
    RunAnswer,
)
from chipmark.cell.suite import CellPlan
from chipmark.chips.contract import ChipIdentity
from chipmark.chips.state import DeviceState, RepeatState, Sample
from chipmark.codes import NoteCode
from chipmark.meters.pick import Picked
from chipmark.results.manifest import ModelId, Probes

CARD = ChipIdentity("ascend-910b3", "Huawei", "910B3", "card", 1, 1)


class Device:
    """Each read of it takes the next of the given states; at rest it is asked once more."""

    name = "paper"
    period_s = None
    remarks: tuple[str, ...] = ()

    def __init__(self, *states: DeviceState) -> None:
        self.states = list(states)

    def read(self) -> DeviceState:
        return self.states.pop(0)

    def sample(self) -> Sample:
        raise AssertionError("asked before and after only")


class Child:
    """Gives half of the wanted working set to its probe."""

    sent_s = answered_s = 0.0
    marks: ClassVar[dict[str, float]] = {}

    def request(self, request: Any, limit_s: float) -> Any:
        if isinstance(request, Run):
            Path(request.events).write_bytes(b"")
            return RunAnswer(4, 4, complete=True, peak_rss_bytes=1)
        if isinstance(request, Clock):
            return ClockAnswer(0.0)
        assert isinstance(request, Probe)
        return ProbeAnswer(1e9, request.read_bytes // 2, None, 0.0, 1.0)

    def park(self) -> None:
        pass


def cell_of(folder: Path, rawcells: ModuleType, load_answer: LoadAnswer) -> MeasuredCell:
    plan = SimpleNamespace(
        backend="torch:npu", precision="fp32", concurrency=1, scenario="equal_n", title="t"
    )
    model = cast("ModelId", SimpleNamespace(source_kind="sim"))
    inputs = CellInputs(
        plan=cast("CellPlan", plan),
        trace=rawcells.trace(),
        model=model,
        in_use=None,
        chip=CARD,
        meters=Picked(),
        repeats=2,
    )
    cell = MeasuredCell(inputs, folder / "cell", cast("Any", None))
    cell.prepare()
    cell.child = cast("Any", Child())
    cell.answer = replace(
        load_answer,
        weight_bytes=4_000_000,
        kv_bytes=0,
        describe={"hardware": {"l2_cache_bytes": 192 << 20}},
    )
    return cell


def test_throttling_of_one_repeat_is_noted_and_its_reasons_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rawcells: ModuleType, load_answer: LoadAnswer
) -> None:
    calm, hot = DeviceState(throttle=()), DeviceState(throttle=("hw_thermal_slowdown",))
    device = Device(calm, calm, hot, calm, calm)
    monkeypatch.setattr(measure, "state_source", lambda chip, backend, choices: device)
    cell = cell_of(tmp_path, rawcells, load_answer)
    stages.repeat(cell)
    timing = json.loads((cell.folder / "repeat-0/timing.json").read_text(encoding="utf-8"))
    assert timing["throttle"] == ["hw_thermal_slowdown"]
    assert timing["state"]["after"]["throttle"] == ["hw_thermal_slowdown"]
    assert timing["state"]["before"]["throttle"] == timing["state"]["remarks"] == []
    stages.repeat(cell)
    timing = json.loads((cell.folder / "repeat-1/timing.json").read_text(encoding="utf-8"))
    assert timing["throttle"] == []
    codes = [note.code for note in cell.notes]
    assert codes.count("throttled_thermal") == 1
    probes = Probes.model_validate(
        json.loads((cell.folder / "repeat-1/probes.json").read_text(encoding="utf-8"))
    )
    assert (probes.read_bytes, probes.wanted_bytes, probes.by) == (2_000_000, 4_000_000, "backend")
    assert (probes.llc_bytes, probes.matmul_before) == (192 << 20, None)
    assert "probe_size" in codes


def test_device_that_does_not_tell_is_unknown(
    tmp_path: Path, rawcells: ModuleType, load_answer: LoadAnswer
) -> None:
    cell = cell_of(tmp_path, rawcells, load_answer)
    done = repeat.measure_repeat(cell, 0)
    assert done.timing.throttle is None
    assert done.timing.state == RepeatState("")
    assert [note.code for note in done.notes if note.code != "probe_size"] == ["throttle_unknown"]


def test_changes_are_found_between_repeats_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rawcells: ModuleType, load_answer: LoadAnswer
) -> None:
    counts = (0, 0, 0, 3, 3, 4, 5)
    device = Device(*(DeviceState(throttle=(), ecc_errors=count) for count in counts))
    monkeypatch.setattr(measure, "state_source", lambda chip, backend, choices: device)
    cell = cell_of(tmp_path, rawcells, load_answer)
    for expected in (0, 1, 1):
        stages.repeat(cell)
        assert [note.code for note in cell.notes].count(NoteCode.ECC_ERRORS) == expected


def test_a_device_that_stays_busy_at_rest_is_used_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rawcells: ModuleType, load_answer: LoadAnswer
) -> None:
    busy = DeviceState(throttle=(), busy=0.4)
    monkeypatch.setattr(measure, "state_source", lambda chip, backend, choices: Device(*[busy] * 5))
    monkeypatch.setattr(repeat, "busy_at_rest", lambda source: source.read().busy)
    cell = cell_of(tmp_path, rawcells, load_answer)
    stages.repeat(cell)
    timing = json.loads((cell.folder / "repeat-0/timing.json").read_text(encoding="utf-8"))
    assert timing["state"]["busy_before"] == 0.4
    assert "other_processes" in [note.code for note in cell.notes]
    stages.repeat(cell)
    timing = json.loads((cell.folder / "repeat-1/timing.json").read_text(encoding="utf-8"))
    assert timing["state"]["busy_before"] is None
