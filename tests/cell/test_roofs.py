from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import Any

import pytest

from chipmark.cell import host_probe, roofs
from chipmark.cell.child import roof_of
from chipmark.cell.protocol import LoadAnswer, Probe, ProbeAnswer
from chipmark.cell.roofs import RoofPlan
from chipmark.chips.contract import ChipIdentity

HOST = ChipIdentity("cpu-x", "AMD", "x", "cpu-share", 2, 2, context={"llc_bytes": 32 << 20})
CARD = ChipIdentity("nvidia-h200-sxm", "NVIDIA", "NVIDIA H200", "card", 1, 1)
SIZE = 4_000_000


class Child:
    """Answers half of every roof, as a backend would that flatters its MBU."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.parked = False

    def request(self, request: Probe, limit_s: float) -> ProbeAnswer:
        self.asked.append(request.read_bytes)
        read = 1e6 if request.read_bytes else None
        return ProbeAnswer(read, request.read_bytes // 2, 1e9, 1.0, 2.0)

    def park(self) -> None:
        self.parked = True


def plan(by: Any = "harness") -> RoofPlan:
    return RoofPlan(SIZE, "fp32", by, 1, 32 << 20)


def test_backend_on_the_host_has_no_say_in_the_read_roof() -> None:
    child = Child()
    answer = roofs.probe(child, plan(), 60)  # type: ignore[arg-type]
    assert (child.asked, child.parked) == ([0], True)
    assert answer.read_bytes == SIZE
    assert answer.read > 1e8
    probes = roofs.bracket(plan(), answer, answer)
    assert (probes.by, probes.read_bytes, probes.wanted_bytes) == ("harness", SIZE, SIZE)
    assert roofs.size_notes(probes) == []


def test_device_of_its_own_is_probed_by_its_backend() -> None:
    child = Child()
    answer = roofs.probe(child, plan("backend"), 60)  # type: ignore[arg-type]
    assert (child.asked, child.parked) == ([SIZE], False)
    probes = roofs.bracket(plan("backend"), answer, answer)
    assert (probes.by, probes.read_bytes) == ("backend", SIZE // 2)
    assert [note.code for note in roofs.size_notes(probes)] == ["probe_size"]


def test_plan_is_by_the_chip_and_not_by_what_the_backend_says(
    rawcells: Any, load_answer: LoadAnswer
) -> None:
    described = {"hardware": {"l2_cache_bytes": 50 << 20}, "by": "backend"}
    loaded = replace(load_answer, describe=described)
    # Prompts of the four turns are 10, 17, 12 and 20 tokens: 14 live at a time, of 50.
    found = roofs.roof_plan(HOST, loaded, rawcells.trace(), 1, 2)
    assert found == RoofPlan(1140, "fp32", "harness", 2, 32 << 20)
    found = roofs.roof_plan(CARD, loaded, rawcells.trace(), 1, 2)
    assert (found.by, found.llc_bytes) == ("backend", 50 << 20)


def test_cache_is_the_devices_own_or_unknown() -> None:
    told = {"hardware": {"l2_cache_bytes": 60 << 20}}
    assert roofs.device_cache(HOST, told) == 32 << 20
    assert roofs.device_cache(CARD, told) == 60 << 20
    assert roofs.device_cache(CARD, {}) is None
    assert roofs.device_cache(CARD, {"hardware": {}}) is None


def test_probe_never_takes_more_than_a_safe_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_probe, "available_memory", lambda: 2 * SIZE)
    read, size = host_probe.host_read_roof(100 * SIZE, None, 1)
    assert (size, read is not None) == (SIZE, True)
    assert host_probe.host_read_roof(100 * SIZE, SIZE, 1) == (None, 100 * SIZE)


@pytest.mark.parametrize("stdout", ["", "no JSON", '{"other": 1}', '{"read": 0}'])
def test_probe_that_fails_costs_the_roof_only(monkeypatch: pytest.MonkeyPatch, stdout: str) -> None:
    done = subprocess.CompletedProcess([], 0, stdout, "")
    monkeypatch.setattr(host_probe, "run_module", lambda *_, **__: done)
    assert host_probe.host_read_roof(SIZE, None, 1)[0] is None


def test_killed_probe_costs_the_roof_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise subprocess.CalledProcessError(-9, "probe")

    monkeypatch.setattr(host_probe, "run_module", killed)
    assert host_probe.host_read_roof(SIZE, None, 1) == (None, SIZE)


def test_lack_of_memory_in_a_probe_is_no_roof_and_other_faults_are_faults() -> None:
    def fails(error: Exception) -> Any:
        def probe() -> float:
            raise error

        return probe

    assert roof_of(fails(MemoryError())) is None
    assert roof_of(fails(RuntimeError("CUDA out of memory. Tried to allocate 44 GiB"))) is None
    assert roof_of(lambda: None) is None
    assert roof_of(lambda: 3) == 3.0
    with pytest.raises(ZeroDivisionError):
        roof_of(fails(ZeroDivisionError()))
