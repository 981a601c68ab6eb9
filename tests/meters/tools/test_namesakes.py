"""Tools that have another's name, cards of two dies, and what a row must say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chipmark.chips.contract import DeviceKey
from chipmark.errors import ChipmarkError
from chipmark.meters.choice import MeterChoice
from chipmark.meters.request import MeterRequest
from chipmark.meters.tools.brsmi import BRSMI
from chipmark.meters.tools.cards import card_of, cards_of
from chipmark.meters.tools.devices import find_tool
from chipmark.meters.tools.ixsmi import IXSMI
from chipmark.meters.tools.mthreads_gmi import MTHREADS_GMI
from chipmark.meters.tools.mx_smi import overview as metax
from chipmark.meters.tools.nvidia_smi import NVIDIA_SMI
from chipmark.meters.tools.tool import Tool
from chipmark.meters.tools.xpu_smi_intel import INTEL_XPU_SMI

Make = Callable[[str], Any]


def of(every: list[Any], stem: str) -> list[Any]:
    return next(one.answers for one in every if one.file.stem == stem)


def overview_of(every: list[Any], tool: Tool, stem: str) -> str:
    wanted = " ".join(tool.overview.arguments)
    return str(next(a["text"] for a in of(every, stem) if a["arguments"] == wanted))


def test_no_tool_takes_anothers_answer_for_its_own(every: list[Any]) -> None:
    """By their overviews: every tool knows its own and none of the others' that have its name."""
    texts = {one.file.stem: (one.content["tool"], one.answers[0]["text"]) for one in every}
    for name, (owner, text) in texts.items():
        assert NVIDIA_SMI.is_own(text) == (owner == "nvidia-smi"), name
        assert INTEL_XPU_SMI.is_own(text) == (owner == "intel-xpu-smi"), name
    posing = overview_of(every, NVIDIA_SMI, "nvidia-smi-550.127-A10").replace("CUDA", "HGGC")
    assert not NVIDIA_SMI.is_own(posing)


def test_program_of_another_vendor_is_refused(program: Make, every: list[Any]) -> None:
    program("nvidia-smi").prints(of(every, "ppu-smi-1.17-ZW810E"))
    with pytest.raises(ChipmarkError, match="another vendor"):
        NVIDIA_SMI.for_request(MeterRequest("NVIDIA", "card", "cuda:0"))


def test_two_dies_are_one_card(every: list[Any]) -> None:
    dies = IXSMI.overview.parse(overview_of(every, IXSMI, "ixsmi-4.3.0-BI-V150"))
    cards = cards_of(IXSMI, dies)
    assert [card.numbers for card in cards] == [(0, 1), (2, 3)]
    assert [sum(die.power_w or 0 for die in card.dies) for card in cards] == [103.0, 106.0]


@pytest.mark.parametrize("die", ["00000000:1c:00.0", "00000000:1f:00.0"])
def test_either_die_gives_its_cards_watts(program: Make, every: list[Any], die: str) -> None:
    program("ixsmi").prints(of(every, "ixsmi-4.3.0-BI-V150"))
    meter = IXSMI.for_request(MeterRequest(IXSMI.vendor, "card", "corex", key=DeviceKey(pci=die)))
    assert meter is not None
    meter.start()
    assert set(meter.stop().power_w) == {106.0}


def test_a_board_of_two_gpus_has_its_watts_once(every: list[Any]) -> None:
    text = overview_of(every, IXSMI, "mx-smi-2.2.9-C500").replace("| 1     MetaX", "| 0     MetaX")
    first, second = metax(text)
    assert (first.card, first.die, second.card, second.die) == (0, 0, 0, 1)
    assert (first.power_w, second.power_w) == (67.0, None)


def test_details_complete_the_table(program: Make, every: list[Any]) -> None:
    program("nvidia-smi").prints(of(every, "nvidia-smi-550.127-H100"))
    here, listed = find_tool(NVIDIA_SMI)
    (card,) = here.completed(listed)
    assert (card.name, card.uuid[:8]) == ("NVIDIA H100 80GB HBM3", "GPU-1111")
    assert (card.clock_mhz, card.nominal_mhz, card.processes) == (1755.0, 1980.0, 1)
    assert card.throttle == ("sw_power_cap", "hw_thermal_slowdown")


def test_cuda_numbers_cards_in_an_order_of_its_own(
    program: Make, every: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    program("nvidia-smi").prints(of(every, "nvidia-smi-470.57-V100-A100-MIG"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    request = MeterRequest("NVIDIA", "card", "cuda:0")
    with pytest.raises(ChipmarkError, match="another order") as error:
        NVIDIA_SMI.for_request(request)
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in error.value.hint
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    meter = NVIDIA_SMI.for_request(request)
    assert meter is not None
    assert "Tesla V100" in meter.info.covers


@pytest.mark.parametrize(("visible", "number"), [("", 0), ("1", 1), ("1,0", 1)])
def test_the_vendors_variable_picks_the_card(
    every: list[Any], monkeypatch: pytest.MonkeyPatch, visible: str, number: int
) -> None:
    monkeypatch.setenv("MUSA_VISIBLE_DEVICES", visible)
    answers = of(every, "mthreads-gmi-2.3.2-2xS5000")
    dies = MTHREADS_GMI.overview.parse(answers[0]["text"])
    found = card_of(
        MTHREADS_GMI,
        cards_of(MTHREADS_GMI, dies),
        MeterRequest(MTHREADS_GMI.vendor, "card", "musa:0"),
    )
    assert found.numbers == (number,)


def test_driver_without_the_instantaneous_power(program: Make, every: list[Any]) -> None:
    answers = of(every, "nvidia-smi-550.127-H100")
    program("nvidia-smi").prints(a for a in answers if "draw.instant" not in a["arguments"])
    meter = NVIDIA_SMI.for_request(MeterRequest("NVIDIA", "card", "cuda:0"))
    assert meter is not None
    assert "power.draw," in meter.info.method
    assert meter.info.averaging_s == 1.0
    # The newer property is of the moment, and so are all watts of older cards and of GA100.
    program("nvidia-smi").prints(answers)
    newer = NVIDIA_SMI.for_request(MeterRequest("NVIDIA", "card", "cuda:0"))
    assert newer is not None
    assert "power.draw.instant," in newer.info.method
    assert newer.info.averaging_s is None
    older = [{**a, "text": a["text"].replace("H100", "A100")} for a in answers]
    program("nvidia-smi").prints(a for a in older if "draw.instant" not in a["arguments"])
    found = NVIDIA_SMI.for_request(MeterRequest("NVIDIA", "card", "cuda:0"))
    assert found is not None
    assert "power.draw," in found.info.method
    assert found.info.averaging_s is None


def test_tool_that_nobody_saw_says_so(program: Make, every: list[Any]) -> None:
    program("brsmi").prints(of(every, "brsmi-unseen-166"))
    choice = MeterChoice("brsmi", "0")
    meter = BRSMI.for_request(MeterRequest(BRSMI.vendor, "card", "supa:0", choices=(choice,)))
    assert meter is not None
    assert any("no output of brsmi was ever seen" in note for note in meter.info.notes)
    assert any(note.startswith("unverified on hardware") for note in meter.info.notes)
