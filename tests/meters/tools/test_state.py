from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chipmark.chips.contract import DeviceKey
from chipmark.chips.device_users import DeviceUsers
from chipmark.chips.state import DeviceState, Sample
from chipmark.chips.state_watch import StateWatch
from chipmark.errors import ChipmarkError
from chipmark.meters.request import MeterRequest
from chipmark.meters.tools import state
from chipmark.meters.tools.cards import Card
from chipmark.meters.tools.devices import ToolHere
from chipmark.meters.tools.npu_smi import NPU_SMI
from chipmark.meters.tools.reading import DieReading
from chipmark.meters.tools.state import ToolSource, tool_source
from chipmark.meters.tools.tool import Query, Tool

ASCEND = MeterRequest("Huawei", "card", "npu:0")


def parsed(text: str) -> tuple[DieReading, ...]:
    """A line a die: card die FIELD=VALUE..."""
    found = []
    for line in text.splitlines():
        card, die, *rest = line.split()
        values: dict[str, Any] = {}
        for part in rest:
            name, _, value = part.partition("=")
            text = {"throttle": (value,), "name": value}
            values[name] = text[name] if name in text else float(value)
        found.append(DieReading(int(card), int(die), **{"name": "Paper"} | values))
    return tuple(found)


class Paper:
    """A tool of paper: its program prints a file, and counts its calls."""

    def __init__(self, folder: Path) -> None:
        self.file, self.calls = folder / "answer", folder / "calls"
        script = folder / "paper-smi"
        script.write_text(f"#!/bin/sh\necho x >> {self.calls}\ncat {self.file}\n")
        script.chmod(0o755)
        self.here = ToolHere(
            Tool("paper-smi", "Paper", ("paper-smi",), "board", Query((), parsed)), str(script)
        )

    def says(self, *lines: str) -> None:
        self.file.write_text("\n".join(lines))

    @property
    def asked(self) -> int:
        return len(self.calls.read_text().splitlines())


class Time:
    """Seconds that pass by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def paper(tmp_path: Path) -> Paper:
    return Paper(tmp_path)


def source(paper: Paper, clock: Callable[[], float] | None = None) -> ToolSource:
    """Of the card as the tool shows it now."""
    card = Card(paper.here.devices())
    users = DeviceUsers(leader=os.getpid())
    return (
        ToolSource(paper.here, card, users)
        if clock is None
        else ToolSource(paper.here, card, users, clock)
    )


def test_the_dies_of_a_card_are_one_device(paper: Paper) -> None:
    paper.says(
        "0 0 clock_mhz=1500 nominal_mhz=1600 temperature_c=40 ecc_errors=1 cap_w=300 busy=0.2 "
        "processes=2 throttle=power_cap",
        "0 1 clock_mhz=1200 nominal_mhz=1600 temperature_c=60 ecc_errors=2 cap_w=300 busy=0.4 "
        "processes=1 throttle=thermal",
        "1 0 clock_mhz=300 temperature_c=99 ecc_errors=9 busy=1",
    )
    card = Card(tuple(die for die in paper.here.devices() if die.card == 0))
    found = ToolSource(paper.here, card, DeviceUsers(leader=1 << 24)).read()
    assert found == DeviceState(
        clock_mhz=1200, nominal_mhz=1600, temperature_c=60, ecc_errors=3, power_limit_w=300,
        busy=0.4, other_processes=3, throttle=("power_cap", "thermal"), shared="",
    )  # fmt: skip


def test_what_was_not_listed_as_a_die_is_not_of_the_card(paper: Paper) -> None:
    paper.says("0 0 temperature_c=40")
    device = source(paper)
    paper.says("0 0 temperature_c=40", "0 9 temperature_c=90")  # as a board's own controller
    assert device.read().temperature_c == 40


def test_a_count_of_half_a_card_is_none(paper: Paper) -> None:
    paper.says("0 0 ecc_errors=1 processes=0", "0 1 temperature_c=60")
    found = source(paper).read()
    assert (found.ecc_errors, found.other_processes) == (None, None)


@pytest.mark.parametrize(
    ("answer", "capped"),
    [
        ("power_w=399 cap_w=400", True),
        ("power_w=300 cap_w=400", False),
        ("power_w=300", False),
        ("power_w=399 cap_w=400 throttle=thermal", False),
        ("power_w=100 cap_w=400 throttle=power_cap", True),
    ],
)
def test_the_limit_is_known_by_its_watts_or_its_reason(
    paper: Paper, answer: str, capped: bool
) -> None:
    clock = Time()
    paper.says(f"0 0 clock_mhz=1000 busy=0.9 {answer}")
    device = source(paper, clock)
    device.read()
    clock.now += 5
    sample = device.sample()
    assert (sample.capped, sample.loaded, sample.clock_mhz) == (capped, True, 1000)


def test_idle_by_its_reason_is_not_under_load(paper: Paper) -> None:
    clock = Time()
    paper.says("0 0 clock_mhz=300 busy=0.9 throttle=idle")
    device = source(paper, clock)
    device.read()
    clock.now += 5
    assert device.sample().loaded is False


@pytest.mark.parametrize(("name", "nominal"), [("MXC500", 1700), ("GeForce-RTX-4090", None)])
def test_the_highest_clock_of_a_card_for_displays_is_not_nominal(
    paper: Paper, name: str, nominal: float | None
) -> None:
    paper.says(f"0 0 clock_mhz=300 nominal_mhz=1700 name={name}")
    assert source(paper).read().nominal_mhz == nominal


def test_one_answer_serves_a_read_and_its_sample(paper: Paper) -> None:
    clock = Time()
    paper.says("0 0 clock_mhz=1000")
    device = source(paper, clock)
    before = paper.asked
    device.read()
    assert device.sample().clock_mhz == 1000
    assert paper.asked == before + 1
    paper.says("0 0 clock_mhz=900")
    clock.now += 1.5
    assert device.sample().clock_mhz == 900


def test_a_tool_is_asked_as_often_as_a_fifth_of_the_time_allows(paper: Paper) -> None:
    paper.says("0 0 ecc_errors=0 cap_w=300")
    still = source(paper)
    assert still.period_s is None
    still.read()
    assert still.period_s is None  # nothing that it says moves
    paper.says("0 0 temperature_c=40")

    class Slow(Time):
        def __call__(self) -> float:
            self.now += 0.8  # an answer takes that long
            return self.now

    slow = source(paper, Slow())
    slow.read()
    assert slow.period_s == pytest.approx(4.0)
    quick = source(paper)
    quick.read()
    assert quick.period_s == 2.0


def test_a_tool_that_fails_says_nothing_and_why_once(paper: Paper) -> None:
    clock = Time()
    paper.says("0 0 temperature_c=40")
    device = source(paper, clock)
    device.read()
    paper.file.unlink()
    asked = paper.asked
    for _ in range(6):
        clock.now += 5
        assert device.sample() == Sample()
    assert paper.asked == asked + 3
    assert device.read() == DeviceState()
    assert len(device.remarks) == 2
    assert device.remarks[0].startswith("unverified on hardware")
    assert "paper-smi ended with exit code 1" in device.remarks[1]
    paper.says("0 0 temperature_c=41")
    assert device.read().temperature_c == 41


def answers(changes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Of a 910B4-1, which prints its nominal clock."""
    file = Path(__file__).parent / "data" / "npu-smi-25.2.0-910B4-1.toml"
    found = []
    for answer in tomllib.loads(file.read_text())["answer"]:
        text = answer["text"]
        for old, new in changes.items():
            text = text.replace(old, new)
        found.append({**answer, "text": text})
    return found


def test_an_even_throttle_of_an_ascend_is_seen_by_npu_smi(program: Callable[[str], Any]) -> None:
    busy = {
        "0000:C1:00.0  | 0  ": "0000:C1:00.0  | 90 ",
        "Aicore curFreq(MHZ)            : 800": "Aicore curFreq(MHZ)            : 1320",
    }
    program("npu-smi").prints(answers(busy))
    found = tool_source(ASCEND)
    assert found is not None
    watch = StateWatch(found)
    watch.start()
    told = watch.stop()
    assert (told.source, told.before.nominal_mhz) == ("npu-smi", 1650)
    assert told.during is not None
    assert told.during.clock_uncapped_mhz == 1320
    assert (told.before.busy, told.before.temperature_c) == (0.9, 33)


def test_the_card_that_computes_is_asked(program: Callable[[str], Any]) -> None:
    program("npu-smi").prints(answers({}))
    elsewhere = MeterRequest("Huawei", "card", "npu:0", key=DeviceKey(pci="0000:FE:00.0"))
    with pytest.raises(ChipmarkError):
        tool_source(elsewhere)


def test_a_vendor_without_a_tool_has_no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tool_source(MeterRequest("Nobody", "card", "xpu")) is None
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ChipmarkError, match="npu-smi"):
        tool_source(ASCEND)


def test_the_second_tool_of_a_vendor_is_asked_where_the_first_is_not_here(
    program: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = replace(NPU_SMI, name="other", programs=("no-such-smi",))
    monkeypatch.setattr(state, "_tools", lambda: iter((missing, NPU_SMI)))
    with pytest.raises(ChipmarkError, match="no-such-smi"):
        tool_source(ASCEND)
    program("npu-smi").prints(answers({}))
    found = tool_source(ASCEND)
    assert found is not None
    assert found.name == "npu-smi"


def test_a_number_that_another_card_has_got_tells_nothing(paper: Paper) -> None:
    dies = (DieReading(0, pci="0000:C1:00.0"),)
    kept = replace(paper.here.tool, overview=Query((), lambda text: (
        DieReading(0, pci=text.strip(), clock_mhz=700.0),
    )))  # fmt: skip
    moved = ToolSource(replace(paper.here, tool=kept), Card(dies))
    paper.says("0000:C1:00.0")
    assert moved.read().clock_mhz == 700
    paper.says("0000:C2:00.0")
    assert moved.read().clock_mhz is None
    assert any("number 0 is now the card 0000:C2:00.0" in text for text in moved.remarks)
