from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chipmark.cell import device_state
from chipmark.cell.device_state import busy_at_rest, state_source
from chipmark.chips.contract import ChipIdentity
from chipmark.chips.detect import chip_of
from chipmark.chips.state import DeviceState, Sample
from chipmark.chips.state_watch import StateWatch
from chipmark.meters.choice import parse_choice
from chipmark.meters.request import MeterRequest

HOST = ChipIdentity("cpu-x", "Intel", "x", "package", 1, 1)


class Gauge:
    """How busy it is, read by read."""

    name = "paper"
    period_s = None
    remarks: tuple[str, ...] = ()

    def __init__(self, *busy: float | None) -> None:
        self.busy = list(busy)

    def read(self) -> DeviceState:
        return DeviceState(busy=self.busy.pop(0) if len(self.busy) > 1 else self.busy[0])

    def sample(self) -> Sample:
        raise AssertionError


@pytest.mark.parametrize(
    ("busy", "found"),
    [((None,), None), ((0.0,), 0.0), ((0.9, 0.5, 0.01), 0.01), ((0.9, 0.4), 0.4)],
)
def test_work_of_our_own_fades_from_the_gauge(
    busy: tuple[float | None, ...], found: float | None
) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    assert busy_at_rest(Gauge(*busy), lambda: now[0], sleep) == found
    assert now[0] <= 3.25


def test_every_kind_of_chip_has_its_source(
    install_nvml: Callable[..., Any], paper_nvml: ModuleType, tmp_path: Path
) -> None:
    install_nvml(paper_nvml.PaperCard())
    card = state_source(chip_of("torch:cuda"))
    assert card is not None
    assert card.name == "NVML"
    host = state_source(HOST, root=tmp_path, mask=[0])
    assert host is not None
    assert StateWatch(host).stop().slowdowns() is None
    sim = state_source(chip_of("sim:golden"), "sim:golden")
    assert sim is not None
    assert sim.read().throttle == ()
    assert state_source(ChipIdentity("ascend-910b3", "Huawei", "910B3", "card", 1, 1)) is None


def test_a_card_that_is_gone_has_none(
    install_nvml: Callable[..., Any], paper_nvml: ModuleType
) -> None:
    install_nvml(paper_nvml.PaperCard())
    chip = chip_of("torch:cuda")
    install_nvml(paper_nvml.PaperCard(uuid="GPU-bbbb", pci="00000000:99:00.0"))
    assert state_source(chip) is None


def test_hot_device_hides_why_it_is_slow() -> None:
    source = state_source(chip_of("sim:hot"), "sim:hot")
    assert source is not None
    watch = StateWatch(source)
    watch.start()
    state = watch.stop()
    assert state.slowdowns() is None
    assert state.during is not None
    assert state.during.clock_uncapped_mhz == 0.8 * (state.before.nominal_mhz or 0)


def test_a_card_that_the_user_named_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[MeterRequest] = []
    monkeypatch.setattr(device_state, "tool_source", asked.append)
    chip = ChipIdentity("ascend-910b3", "Huawei", "910B3", "card", 1, 1)
    state_source(chip, "torch:npu:1", choices=(parse_choice("npu-smi:3"),))
    [request] = asked
    assert (request.vendor, request.unit, request.device) == ("Huawei", "card", "npu:1")
    choice = request.choice("npu-smi")
    assert choice is not None
    assert choice.target == "3"
