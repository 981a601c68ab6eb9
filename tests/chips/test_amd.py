from __future__ import annotations

import builtins
import logging
import sys
from types import ModuleType
from typing import Any

import pytest

from chipmark.chips import amd
from chipmark.chips.contract import DeviceKey
from chipmark.chips.nvml import AmbiguousCardError
from chipmark.errors import MissingBackendError, UsageError

MASKS = (
    "HIP_VISIBLE_DEVICES",
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
)


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amd, "_opened", [])


@pytest.fixture
def two(paper_amdsmi: ModuleType) -> Any:
    """Two cards, which HIP numbers the other way round than the library."""
    card = paper_amdsmi.PaperCard
    return paper_amdsmi.FakeAmdSmi(
        card(pci="0000:05:00.0", uuid="74a1-01", hip_id=1, hip_uuid="GPU-01aa"),
        card(pci="0000:26:00.0", uuid="74a1-02", hip_id=0, hip_uuid="GPU-02bb"),
    )


def test_a_library_that_is_missing_is_not_here_and_prints_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delitem(sys.modules, "amdsmi", raising=False)
    real = builtins.__import__

    def without_rocm(name: str, *rest: Any) -> Any:
        if name == "amdsmi":
            print("Unable to find libamd_smi.so library")  # as its bindings do
            raise KeyError("libamd_smi.so")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_rocm)
    with (
        caplog.at_level(logging.INFO, logger="chipmark.chips"),
        pytest.raises(MissingBackendError, match=r"Unable to find libamd_smi\.so"),
    ):
        amd.open_amdsmi()
    assert capsys.readouterr().out == ""
    assert "Unable to find libamd_smi.so" in caplog.text


def test_bindings_that_are_not_installed_are_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    with pytest.raises(MissingBackendError, match="bindings are not installed"):
        amd.open_amdsmi()


def test_a_driver_that_does_not_answer_is_not_here(
    monkeypatch: pytest.MonkeyPatch, paper_amdsmi: ModuleType
) -> None:
    fake = paper_amdsmi.FakeAmdSmi(broken="Error code:\n\t34 | AMDSMI_STATUS_NOT_INIT")
    monkeypatch.setitem(sys.modules, "amdsmi", fake)
    with pytest.raises(MissingBackendError, match="no AMD driver answers") as caught:
        amd.open_amdsmi()
    assert "\n" not in caught.value.message


def test_the_library_is_opened_once(monkeypatch: pytest.MonkeyPatch, two: Any) -> None:
    monkeypatch.setitem(sys.modules, "amdsmi", two)
    assert amd.open_amdsmi() is amd.open_amdsmi()
    assert two.opened == 1


def test_the_card_is_the_one_that_the_process_reports(two: Any) -> None:
    def pci_of(key: DeviceKey) -> str:
        return amd.find_amd_card(two, "cuda:0", key, {}).pci

    assert pci_of(DeviceKey(pci="00000000:26:00.0")) == "0000:26:00.0"
    assert pci_of(DeviceKey(pci="00000000:05:00.0", uuid="02bb")) == "0000:05:00.0"
    assert pci_of(DeviceKey(uuid="02bb")) == "0000:26:00.0"
    assert pci_of(DeviceKey(uuid="74A1-01")) == "0000:05:00.0"
    for key in (DeviceKey(pci="0:77:0.0"), DeviceKey(uuid="99")):
        with pytest.raises(UsageError, match="shows 0 cards"):
            pci_of(key)


@pytest.mark.parametrize(
    ("device", "environ", "pci"),
    [
        ("cuda", {}, "0000:26:00.0"),
        ("cuda:1", {}, "0000:05:00.0"),
        ("rocm:0", {"HIP_VISIBLE_DEVICES": "1"}, "0000:05:00.0"),
        ("cuda:1", {"CUDA_VISIBLE_DEVICES": "1, 0"}, "0000:26:00.0"),
        ("cuda:0", {"ROCR_VISIBLE_DEVICES": "1"}, None),
        ("cuda:0", {"HIP_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "0"}, None),
        ("cuda:0", {"HIP_VISIBLE_DEVICES": "GPU-01aa"}, None),
        ("cuda:2", {"HIP_VISIBLE_DEVICES": "0,1"}, None),
        ("cuda:5", {}, None),
    ],
)
def test_a_card_is_known_by_hips_number_unless_a_mask_hides_it(
    two: Any, device: str, environ: dict[str, str], pci: str | None
) -> None:
    if pci is None:
        with pytest.raises(AmbiguousCardError, match="any of 2 AMD cards"):
            amd.find_amd_card(two, device, DeviceKey(), environ)
    else:
        assert amd.find_amd_card(two, device, DeviceKey(), environ).pci == pci


def test_cards_that_hip_does_not_number_are_open_and_one_alone_is_not(
    two: Any, paper_amdsmi: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mask in MASKS:
        monkeypatch.delenv(mask, raising=False)
    for card in two.cards:
        card.hip_id = None
    with pytest.raises(AmbiguousCardError):
        amd.find_amd_card(two, "cuda:0", DeviceKey())
    del two.cards[1]
    assert amd.find_amd_card(two, "cuda:7", DeviceKey()).pci == "0000:05:00.0"
    with pytest.raises(UsageError, match="shows 0 cards"):
        amd.find_amd_card(paper_amdsmi.FakeAmdSmi(), "cuda:0", DeviceKey())


@pytest.mark.parametrize(
    ("cap", "watts"),
    [(750_000_000, 750.0), (750, 750.0), (0, None), ("N/A", None), (2**64 - 1, None), (None, None)],
)
def test_the_limit_is_watts_in_either_unit(
    paper_amdsmi: ModuleType, cap: Any, watts: float | None
) -> None:
    card = paper_amdsmi.PaperCard(cap=cap)
    assert amd.AmdCard(paper_amdsmi.FakeAmdSmi(card), card).cap_w() == watts


@pytest.mark.parametrize(
    ("partition", "seen"),
    [("SPX", ""), ("", ""), ("N/A", ""), (None, ""), ("cpx", "CPX"), ("DPX", "DPX")],
)
def test_a_split_card_is_known(paper_amdsmi: ModuleType, partition: str | None, seen: str) -> None:
    card = paper_amdsmi.PaperCard(partition=partition)
    assert amd.AmdCard(paper_amdsmi.FakeAmdSmi(card), card).partition == seen
