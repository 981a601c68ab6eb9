"""The probe that finds whether a binding is a snapshot."""

from __future__ import annotations

import numpy as np
import pytest

from chipmark.backends.ort import binding
from chipmark.backends.ort.binding import (
    HostMemory,
    allocate_host,
    choose_binding,
    is_live,
    probe_graph,
)


@pytest.fixture(scope="module")
def session():
    import onnxruntime as ort

    return ort.InferenceSession(probe_graph().serialize({}, {}), providers=["CPUExecutionProvider"])


class SnapshotMemory(HostMemory):
    """Copies when it is bound, as a provider with memory of its own does."""

    def bind(self, io, name, first, last):
        self.copy = self.host[first:last].copy()
        io.bind_input(name, "cpu", 0, np.float32, self.copy.shape, self.copy.ctypes.data)


def refusing(shape, dtype):
    raise RuntimeError("no allocator for this memory")


def snapshot(shape, dtype):
    return SnapshotMemory(np.zeros(shape, dtype))


def test_the_cpu_provider_reads_host_memory_in_place(session):
    assert is_live(session, allocate_host((3, 3, 8), np.float32))
    assert choose_binding(session, None).way == "shared"


def test_a_snapshot_is_found(session):
    assert not is_live(session, snapshot((3, 3, 8), np.float32))


def test_memory_of_the_provider_is_taken_where_host_memory_is_copied(session, monkeypatch):
    monkeypatch.setattr(
        binding, "provider_allocators", lambda session, device: [refusing, snapshot, allocate_host]
    )
    real = binding.allocate_host
    monkeypatch.setattr(binding, "allocate_host", snapshot)
    choice = choose_binding(session, object())
    assert (choice.way, choice.allocate) == ("provider", real)


def test_rebinding_is_the_last_way(session, monkeypatch):
    monkeypatch.setattr(binding, "allocate_host", snapshot)
    monkeypatch.setattr(binding, "provider_allocators", lambda session, device: [snapshot])
    assert choose_binding(session, object()).way == "rebind"
