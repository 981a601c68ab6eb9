"""`torch:kunlun` and others: torch's `cuda`, where the bus shows that vendor's chip."""

from __future__ import annotations

import types
from pathlib import Path

import pytest
import torch

from chipmark.backends.torch_device import devices, lookalikes
from chipmark.backends.torch_device.lookalikes import (
    LOOKALIKES,
    POSED_AS,
    check_bus,
    check_card,
    poses,
)
from chipmark.chips.catalogue import catalogue
from chipmark.errors import ChipmarkError, MissingBackendError, UnknownNameError

KUNLUN, NVIDIA, METAX = "1d22", "10de", "9999"


@pytest.fixture
def bus(tmp_path):
    """A PCI bus with an accelerator of each vendor, at 0000:01:00.0, 0000:02:00.0, ..."""

    def plugged(*vendors: str, kind: str = "0x120000") -> Path:
        for number, vendor in enumerate(vendors, 1):
            folder = tmp_path / f"sys/bus/pci/devices/0000:{number:02x}:00.0"
            folder.mkdir(parents=True)
            for name, text in (("vendor", f"0x{vendor}"), ("class", kind), ("device", "0x3684")):
                (folder / name).write_text(f"{text}\n")
        return tmp_path

    return plugged


def test_lookalikes_are_those_of_the_catalogue():
    vendors = catalogue().vendors
    posing = {v.name for v in vendors.values() if POSED_AS in v.devices and v.name != "NVIDIA"}
    assert {known.vendor for known in LOOKALIKES.values()} == posing
    for name, known in LOOKALIKES.items():
        assert vendors[known.vendor].pci_vendors == known.pci_vendors
        assert name in vendors[known.vendor].devices


@pytest.mark.parametrize(
    ("name", "vendor"),
    [(name, vendor) for name, known in LOOKALIKES.items() for vendor in known.pci_vendors],
)
def test_any_of_its_vendors_ids_proves_a_lookalike(bus, name, vendor):
    check_bus(name, bus(vendor))


@pytest.mark.parametrize("name", LOOKALIKES)
def test_a_lookalike_needs_its_chip_on_the_bus(bus, name):
    with pytest.raises(MissingBackendError, match="accelerators found: none"):
        check_bus(name, bus())


def test_what_the_bus_shows_instead_is_said(bus):
    root = bus(NVIDIA, METAX)
    with pytest.raises(MissingBackendError, match=r"accelerators found: MetaX, NVIDIA"):
        check_bus("kunlun", root)


def test_a_bridge_of_the_vendor_is_no_chip(bus):
    with pytest.raises(MissingBackendError):
        check_bus("kunlun", bus(KUNLUN, kind="0x060400"))


def test_the_card_that_torch_opened_must_be_the_vendors(bus):
    root = bus(KUNLUN, NVIDIA)
    check_card("kunlun", {"pci": "00000000:01:00.0"}, root)
    with pytest.raises(MissingBackendError, match=r"NVIDIA T4 at 00000000:02:00.0, is of NVIDIA"):
        check_card("kunlun", {"pci": "00000000:02:00.0", "name": "NVIDIA T4"}, root)
    with pytest.raises(MissingBackendError, match="Kunlunxin or NVIDIA, and nothing tells which"):
        check_card("kunlun", {"name": "kunlun"}, root)


def test_without_an_address_the_only_vendor_is_meant(bus):
    check_card("kunlun", {"name": "kunlun"}, bus(KUNLUN, KUNLUN))


def test_a_card_of_another_vendor_may_pose_as_cuda(bus):
    assert poses(dict, bus(KUNLUN, NVIDIA))
    assert not poses(lambda: {"pci": "0000:02:00.0"}, Path(bus()))
    assert poses(lambda: {"pci": "0000:01:00.0"}, Path(bus()))


def test_no_card_poses_where_the_bus_shows_those_that_torch_is_built_for(bus):
    assert not poses(lambda: pytest.fail("was asked"), bus(NVIDIA, "1002"))


@pytest.fixture
def fake_cuda(monkeypatch):
    """torch.cuda as Kunlun's build has it: two devices that say little of themselves."""
    module = types.SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 2,
        get_device_name=lambda device: "kunlun",
        get_device_properties=lambda device: types.SimpleNamespace(name="kunlun"),
        chosen=[],
    )
    module.set_device = module.chosen.append
    monkeypatch.setattr(torch, "cuda", module)
    return module


def at(monkeypatch, root):
    for check in (check_bus, check_card):

        def rooted(*given, check=check):
            check(*given, root)

        monkeypatch.setattr(devices, check.__name__, rooted)


def test_kunlun_is_opened_as_the_cuda_that_it_poses_as(monkeypatch, bus, fake_cuda):
    at(monkeypatch, bus(KUNLUN))
    assert devices.open_device("kunlun:1") == torch.device("cuda:1")
    assert fake_cuda.chosen == [torch.device("cuda:1")]
    with pytest.raises(UnknownNameError, match="kunlun:0"):
        devices.open_device("kunlun:2")


def test_kunlun_is_not_another_vendors_cuda(monkeypatch, bus, fake_cuda):
    at(monkeypatch, bus(NVIDIA))
    with pytest.raises(MissingBackendError, match="the PCI bus shows none"):
        devices.open_device("kunlun")


def test_every_torch_name_of_the_catalogue_reaches_a_clear_error_here(monkeypatch):
    if any(device.vendor in lookalikes._POSING for device in lookalikes._accelerators(Path("/"))):
        pytest.skip("there is an accelerator here")
    names = [*devices.PLUGINS, *LOOKALIKES, "cuda", "xpu"]
    catalogued = {d for entry in catalogue().vendors.values() for d in entry.devices}
    assert {"npu", "mlu", "musa", "gcu", "supa", "kunlun", "dcu", "corex", "ppu"} <= set(names)
    for name in sorted({*names, *catalogued}):
        with pytest.raises(ChipmarkError) as caught:
            devices.open_device(name)
        known = name in names
        expected = MissingBackendError if known else UnknownNameError
        assert type(caught.value) is expected, name
        if known:
            package = devices.PLUGINS.get(name) or getattr(LOOKALIKES.get(name), "vendor", name)
            assert package in caught.value.message
            assert caught.value.hint
