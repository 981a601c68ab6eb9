from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from chipmark.chips.contract import ChipIdentity, DeviceKey
from chipmark.pytest_plugin import energy
from chipmark.pytest_plugin.energy import Joules, key_here
from chipmark.pytest_plugin.workloads import LoadedBackend


def test_the_card_that_the_test_computes_on_is_metered(
    monkeypatch: pytest.MonkeyPatch, paper_nvml: ModuleType
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cards = [paper_nvml.PaperCard(uuid=f"GPU-{n}", pci=f"0:{n}:0.0") for n in (1, 2)]
    monkeypatch.setitem(sys.modules, "pynvml", paper_nvml.FakeNvml(*cards))
    found = SimpleNamespace(name="NVIDIA H200", uuid="2")
    cuda = SimpleNamespace(is_initialized=lambda: True, get_device_properties=lambda _: found)
    torch = SimpleNamespace(
        cuda=cuda, device=lambda name: SimpleNamespace(type=name.partition(":")[0])
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    info = Joules("torch:cuda", None, None).info
    assert info is not None
    assert info.covers == "one card, GPU-2"
    cuda.is_initialized = lambda: False
    assert Joules("torch:cuda", None, None).info is None


def test_a_part_of_a_unit_has_no_energy_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a two-die card, or a slice of a card: meter and declared power are the whole's."""
    chip = ChipIdentity("ascend-910c", "Huawei", "x", "card", 1, 2, {}, {}, ())
    monkeypatch.setattr(energy, "chip_of", lambda backend, key: chip)
    joules = Joules("ort:cann", 400.0, None)
    with joules:
        pass
    found = joules.of(0.0, 1.0)
    assert (found.energy_j, found.reason) == (None, "unit_partly_used")


def test_loaded_backend_tells_its_card() -> None:
    described: dict[str, Any] = {"hardware": {"uuid": "abc"}}
    loaded = SimpleNamespace(backend=SimpleNamespace(describe=lambda: described))
    key = key_here("triton:cuda", cast("LoadedBackend", loaded))
    assert key == DeviceKey(uuid="abc")
    assert key_here("ort:cuda", None) == DeviceKey()
