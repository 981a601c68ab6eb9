"""What a torch device says of its memory, believed or not; functions of torch.accelerator."""

from __future__ import annotations

import types

import pytest
import torch

from chipmark.backends.torch_device import devices
from chipmark.backends.torch_device.memory import device_memory, free_bytes, peak_bytes

CUDA = types.SimpleNamespace(type="cuda")
HOST_BYTES = 64_000_000 * 1024


@pytest.fixture
def meminfo(tmp_path):
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:  64000000 kB\nMemAvailable:    3000000 kB\n")
    return str(path)


def fake(monkeypatch, **functions):
    monkeypatch.setattr(torch, "cuda", types.SimpleNamespace(**functions))


def test_memory_that_is_the_hosts_to_the_byte_is_not_believed(monkeypatch, meminfo):
    fake(monkeypatch, mem_get_info=lambda: (HOST_BYTES // 2, HOST_BYTES))
    found = device_memory(CUDA, meminfo)
    assert (found.free, found.total) == (None, None)
    assert "the host's own" in found.doubt
    fake(monkeypatch, mem_get_info=lambda: (90 << 30, 96 << 30))
    found = device_memory(CUDA, meminfo)
    assert (found.free, found.total, found.doubt) == (90 << 30, 96 << 30, "")


def test_an_integrated_device_has_the_hosts_memory(monkeypatch, meminfo):
    integrated = types.SimpleNamespace(is_integrated=1)
    ask = {"get_device_properties": lambda device: integrated}
    fake(monkeypatch, mem_get_info=lambda: (HOST_BYTES // 2, HOST_BYTES), **ask)
    assert device_memory(CUDA, meminfo).free == HOST_BYTES // 2


def test_peak_is_the_devices_own_count_and_never_a_zero(monkeypatch):
    fake(monkeypatch, max_memory_allocated=lambda: 5_000)
    assert peak_bytes(CUDA) == 5_000
    fake(monkeypatch, max_memory_allocated=lambda: 0)
    assert peak_bytes(CUDA) is None
    fake(monkeypatch)
    assert peak_bytes(CUDA) is None
    assert free_bytes(CUDA) is None
    assert peak_bytes(torch.device("cpu")) is None


def accelerator(monkeypatch, kind, **functions):
    def current():
        return types.SimpleNamespace(type=kind)

    fields = {"current_accelerator": current, "memory_stats": dict} | functions
    monkeypatch.setattr(torch, "accelerator", types.SimpleNamespace(**fields), raising=False)


def test_what_the_vendors_module_lacks_is_asked_of_torch_accelerator(monkeypatch):
    monkeypatch.setattr(torch, "gcu", types.SimpleNamespace(synchronize=lambda: 1), raising=False)
    given = {"synchronize": lambda: 2, "get_memory_info": lambda: (3, 4)}
    accelerator(monkeypatch, "gcu", **given)
    assert devices.function_of("gcu", "synchronize")() == 1
    assert free_bytes(types.SimpleNamespace(type="gcu")) == 3
    accelerator(monkeypatch, "npu", **given)
    assert devices.function_of("gcu", "mem_get_info") is None


def test_an_allocator_that_torch_accelerator_does_not_know_is_not_asked(monkeypatch):
    def unknown():
        raise RuntimeError("device_allocator INTERNAL ASSERT FAILED")

    accelerator(monkeypatch, "gcu", memory_stats=unknown, empty_cache=unknown, synchronize=int)
    assert devices.function_of("gcu", "empty_cache") is None
    assert devices.function_of("gcu", "synchronize") is int
    devices.release(types.SimpleNamespace(type="gcu"))
