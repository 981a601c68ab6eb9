from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from chipmark.cell.settle import is_open, reported_key, settle
from chipmark.chips.contract import ChipIdentity, DeviceKey
from chipmark.chips.detect import chip_of
from chipmark.errors import CellFailedError, UsageError
from chipmark.meters.pick import Picked
from chipmark.meters.replay import SIM_INFO, ReplayMeter


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch, paper_nvml: ModuleType) -> Any:
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    fake = paper_nvml.FakeNvml(
        paper_nvml.PaperCard(name="NVIDIA T400", uuid="GPU-0a", pci="00000000:01:00.0"),
        paper_nvml.PaperCard(name="NVIDIA H200", uuid="GPU-0b", pci="00000000:02:00.0"),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def loaded(device: str = "NVIDIA H200", **hardware: str) -> Any:
    return SimpleNamespace(device=device, describe={"hardware": hardware})


def picks(asked: list[DeviceKey]) -> Any:
    def pick(chip: ChipIdentity) -> Picked:
        asked.append(chip.key)
        return Picked(ReplayMeter(SIM_INFO), (ReplayMeter(SIM_INFO),), ("a remark",))

    return pick


def test_open_card_is_settled_and_metered_by_the_loaded_processs_word(cards: Any) -> None:
    chip, asked = chip_of("torch:cuda:0"), []
    assert is_open(chip)
    told = loaded(uuid="0b", pci="00000000:02:00.0", name="NVIDIA H200")
    found = settle("torch:cuda:0", chip, Picked(), told, picks(asked))
    assert (found.chip.name, found.chip.key.uuid) == ("nvidia-h200-sxm", "GPU-0b")
    assert [key.uuid for key in asked] == ["GPU-0b"]
    assert found.meters.meter is not None
    assert len(found.meters.beside) == 1
    assert [note.text for note in found.notes] == ["a remark"]


def test_card_that_was_certain_keeps_its_meter(cards: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0b")
    chip, asked = chip_of("torch:cuda"), []
    meters = Picked(ReplayMeter(SIM_INFO))
    found = settle("torch:cuda", chip, meters, loaded(uuid="0B"), picks(asked))
    assert (found.chip, found.meters, asked) == (chip, meters, [])


@pytest.mark.parametrize(
    ("hardware", "message"),
    [
        ({"uuid": "GPU-0a"}, "UUID GPU-0a and GPU-0b"),
        ({"pci": "0000:01:00.0"}, "PCI address"),
        ({"name": "NVIDIA T400"}, "NVIDIA T400 and NVIDIA H200"),
    ],
)
def test_contradiction_fails_the_cell(
    cards: Any, monkeypatch: pytest.MonkeyPatch, hardware: dict[str, str], message: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0b")
    chip = chip_of("torch:cuda")
    with pytest.raises(CellFailedError, match=message):
        settle("torch:cuda", chip, Picked(), loaded(**hardware), picks([]))


def test_name_that_contradicts_the_uuid_fails_the_cell(cards: Any) -> None:
    told = loaded(uuid="GPU-0a", name="NVIDIA H200")
    with pytest.raises(CellFailedError, match="NVIDIA H200 and NVIDIA T400"):
        settle("torch:cuda", chip_of("torch:cuda"), Picked(), told, picks([]))


def test_card_that_nvml_does_not_know_is_refused(cards: Any) -> None:
    with pytest.raises(UsageError, match="0 UUIDs"):
        settle("torch:cuda", chip_of("torch:cuda"), Picked(), loaded(uuid="GPU-ff"), picks([]))


def test_slice_is_held_by_its_cards_address(
    monkeypatch: pytest.MonkeyPatch, paper_nvml: ModuleType
) -> None:
    card, part = paper_nvml.split_card()
    monkeypatch.setitem(sys.modules, "pynvml", paper_nvml.FakeNvml(card))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", part.uuid)
    chip = chip_of("torch:cuda")
    told = loaded(uuid="1234", pci="0000:17:00.0", name="NVIDIA H200 MIG 1g.18gb")
    assert settle("torch:cuda", chip, Picked(), told, picks([])).chip.used == 1
    with pytest.raises(CellFailedError):
        settle("torch:cuda", chip, Picked(), loaded(pci="0000:18:00.0"), picks([]))


def test_chips_of_other_vendors_take_the_name_that_the_backend_says() -> None:
    chip = chip_of("ort:cann")
    told = loaded("Ascend 910B3")
    assert settle("ort:cann", chip, Picked(), told, picks([])).chip.name == "ascend-910b3"


def test_the_card_that_another_vendors_process_reports_is_the_one_that_is_metered() -> None:
    chip, asked = chip_of("ort:cann"), []
    told = loaded("Ascend 910B3", pci="00000000:c1:00.0")
    before = Picked(remarks=("any of 2 cards",))
    found = settle("ort:cann", chip, before, told, picks(asked))
    assert found.chip.key == DeviceKey(pci="00000000:c1:00.0", name="Ascend 910B3")
    assert asked == [found.chip.key]
    assert found.meters.meter is not None
    assert [note.text for note in found.notes] == ["a remark"]
    assert [note.text for note in found.stale] == ["any of 2 cards"]


def test_word_of_a_child_that_says_nothing() -> None:
    assert reported_key({}) == DeviceKey()
    assert reported_key({"hardware": None}) == DeviceKey()
