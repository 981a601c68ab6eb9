from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from chipmark.chips import nvml
from chipmark.chips.catalogue import catalogue, catalogue_name
from chipmark.chips.contract import DeviceKey
from chipmark.chips.detect import chip_of, chips_here
from chipmark.chips.identify import identify_nvidia
from chipmark.errors import MissingBackendError, UsageError

Install = Callable[..., Any]
SLOW, FAST = "GPU-5c0a0000-1111", "GPU-fa570000-2222"


@pytest.fixture
def unlike(install: Install, paper_nvml: ModuleType) -> Any:
    """NVML's card 0 is the slow one on the lower bus; CUDA's device 0 the fast one."""
    card = paper_nvml.PaperCard
    return install(
        card(name="NVIDIA T400", uuid=SLOW, pci="00000000:01:00.0", watts=20),
        card(name="NVIDIA GeForce RTX 4090", uuid=FAST, pci="00000000:41:00.0", watts=400),
    )


def test_card_is_the_one_that_the_loaded_process_names(unlike: Any) -> None:
    assert chip_of("torch:cuda:0", "NVIDIA GeForce RTX 4090").key.uuid == FAST
    assert chip_of("torch:cuda:0", "NVIDIA T400").key.uuid == SLOW


@pytest.mark.parametrize(
    "key",
    [
        DeviceKey(uuid="fa570000-2222"),
        DeviceKey(uuid=FAST),
        DeviceKey(pci="0000:41:00.0"),
        DeviceKey(pci="41:00"),
    ],
)
def test_uuid_or_pci_address_goes_before_every_index(unlike: Any, key: DeviceKey) -> None:
    chip = chip_of("torch:cuda:0", key=key)
    assert (chip.device_name, chip.key.pci) == ("NVIDIA GeForce RTX 4090", "00000000:41:00.0")


def test_unlike_cards_stay_open_until_the_process_has_told(
    unlike: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chip = chip_of("torch:cuda:0")
    assert (chip.name, chip.key) == ("nvidia-unsettled", DeviceKey())
    assert chip.identity["one_of"] == ["NVIDIA T400", "NVIDIA GeForce RTX 4090"]
    with pytest.raises(nvml.AmbiguousCardError, match="by speed"):
        nvml.find_card(unlike, "cuda:0", None)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert chip_of("torch:cuda:0").key.uuid == SLOW
    assert chip_of("torch:cuda:1").key.uuid == FAST


def test_like_cards_have_a_name_and_no_uuid(install: Install, paper_nvml: ModuleType) -> None:
    install(paper_nvml.PaperCard(), paper_nvml.PaperCard(uuid="GPU-bbbb", pci="00000000:65:00.0"))
    chip = chip_of("torch:cuda:1", "NVIDIA H200")
    assert (chip.name, chip.key.uuid) == ("nvidia-h200-sxm", "")


@pytest.mark.parametrize(
    ("visible", "device", "uuid"),
    [("GPU-fa57", "cuda", FAST), (f"{SLOW},{FAST}", "cuda:1", FAST), ("gpu-5C0A", "cuda", SLOW)],
)
def test_visible_devices_by_uuid_or_its_beginning(
    unlike: Any, monkeypatch: pytest.MonkeyPatch, visible: str, device: str, uuid: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert chip_of(f"torch:{device}").key.uuid == uuid


@pytest.mark.parametrize(
    ("visible", "device", "message"),
    [
        ("GPU-", "cuda", "beginning of 2"),
        ("GPU-77", "cuda", "beginning of 0"),
        ("", "cuda", "not a visible device"),
        ("-1", "cuda", "not a visible device"),
        ("0", "cuda:1", "not a visible device"),
        ("7", "cuda", "not a device that NVML knows"),
        ("0", "cuda:x", "by its number"),
    ],
)
def test_card_that_is_hidden_or_unclear_is_refused(
    unlike: Any, monkeypatch: pytest.MonkeyPatch, visible: str, device: str, message: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UsageError, match=message):
        chip_of(f"torch:{device}")


def test_visible_index_counts_by_bus_only_where_cuda_does(
    unlike: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert chip_of("torch:cuda").name == "nvidia-unsettled"
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert chip_of("torch:cuda").key.uuid == FAST


def test_nvml_is_opened_once_and_never_shut(install: Install, paper_nvml: ModuleType) -> None:
    fake = install(paper_nvml.PaperCard())
    for _ in range(3):
        assert identify_nvidia("cuda") is not None
    assert (fake.opened, fake.shut) == (1, 0)


def test_power_limit_below_default_is_a_part_of_the_name(
    install: Install, paper_nvml: ModuleType
) -> None:
    install(paper_nvml.PaperCard(limit=400_000))
    chip = chip_of("torch:cuda")
    assert chip.name == "nvidia-h200-sxm (400 W of 700 W)"
    assert catalogue_name(chip.name) == "nvidia-h200-sxm"
    assert catalogue().entry(chip.name).title == "NVIDIA H200 SXM"
    install(paper_nvml.PaperCard())
    assert chip_of("torch:cuda").name == "nvidia-h200-sxm"


def test_slice_of_a_card_is_a_partly_used_unit(
    install: Install, paper_nvml: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, part = paper_nvml.split_card(slices=2)
    card.limit = 500_000
    install(card)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", part.uuid[:9])
    chip = chip_of("torch:cuda")
    assert (chip.unit, chip.used, chip.of) == ("card", 2, 7)
    assert chip.name == "nvidia-h200-sxm (MIG 1g.18gb, 500 W of 700 W)"
    assert (chip.identity["mig"], chip.identity["mig_profile"]) == (True, "1g.18gb")
    assert chip.identity["memory_bytes"] == 18 << 30
    assert chip.key.pci == card.pci


def test_slice_without_attributes_is_counted_by_memory(
    install: Install, paper_nvml: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, part = paper_nvml.split_card(slices=None)
    install(card)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", part.uuid)
    chip = chip_of("torch:cuda")
    assert (chip.used, chip.of) == (1, 8)
    assert any("by memory" in line for line in chip.evidence)


def test_split_card_without_a_named_slice_is_its_first_slice(
    install: Install, paper_nvml: ModuleType
) -> None:
    install(paper_nvml.split_card()[0])
    assert (chip_of("torch:cuda").used, chip_of("torch:cuda").of) == (1, 7)
    install(paper_nvml.PaperCard(mig=(1, 1)))
    chip = chip_of("torch:cuda")
    assert chip.used < chip.of


def test_every_card_is_listed(unlike: Any) -> None:
    names = [chip.device_name for chip in chips_here()[0] if chip.vendor == "NVIDIA"]
    assert names == ["NVIDIA T400", "NVIDIA GeForce RTX 4090"]


def test_driver_that_does_not_answer_says_what_to_check(
    install: Install, paper_nvml: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(paper_nvml.PaperCard())

    def refuse() -> None:
        raise fake.NVMLError("Driver Not Loaded")

    monkeypatch.setattr(fake, "nvmlInit", refuse)
    with pytest.raises(MissingBackendError, match="Driver Not Loaded"):
        chip_of("torch:cuda")


def test_reasons_have_names_also_by_the_older_call(
    install: Install, paper_nvml: ModuleType
) -> None:
    fake = install(paper_nvml.PaperCard(reasons=0x1 | 0x40 | 0x80 | 0x8000))
    card = nvml.cards(fake)[0]
    assert card.reasons() == (
        "gpu_idle", "hw_thermal_slowdown", "hw_power_brake_slowdown", "reason_0x8000",
    )  # fmt: skip
    fake.cards[0].reasons = None
    assert card.reasons() is None
    fake.nvmlDeviceGetCurrentClocksThrottleReasons = lambda card: 0x8
    assert card.reasons() == ("hw_slowdown",)
