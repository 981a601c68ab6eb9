"""KV in memory that only graphs write: the CPU provider, told that its memory is a device's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from chipmark.backends.ort import kv_place
from chipmark.backends.ort.binding import allocate_host
from chipmark.backends.ort.device_memory import DeviceMemory, addresses_of, device_memory
from chipmark.backends.ort.device_probe import is_live_on_device
from chipmark.backends.ort.providers import find_provider, locate
from chipmark.backends.ort.session import NotTakenWholeError
from chipmark.engine.contract import KvOp
from chipmark.errors import ContractError

pytest.importorskip("torch")

from chipmark_models.oracle import Oracle

TOLERANCE = 1e-4
ROW = 2 * 3 * 2 * 16 * 4
"""Bytes of a token's K and V in preset `tiny`."""


def memory_of_a_device(by_address: bool) -> DeviceMemory:
    import onnxruntime as ort

    def make(shape, dtype):
        value = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), np.dtype(dtype).type)
        # What was there before, which no row may be read from.
        if np.dtype(dtype).kind == "f":
            value.update_inplace(np.full(shape, np.nan, dtype))
        return value

    return DeviceMemory("told so", addresses_of("cpu") if by_address else None, make)


@pytest.fixture
def on_device(monkeypatch):
    """Puts KV of `ort:cpu` into tensors that the host does not touch."""

    def put(by_address):
        memory = memory_of_a_device(by_address)
        chosen = kv_place._Way("device", allocate_host, memory)
        monkeypatch.setattr(kv_place, "_choose", lambda opener: chosen)

    return put


@pytest.fixture(scope="module")
def case(prepared, helpers):
    """Preset `tiny`, sequences, and the oracle's logits of every position."""
    config = helpers.preset("tiny")
    spec, weights = prepared(config)
    rng = np.random.default_rng(5)
    sequences = [rng.integers(0, config.vocab_size, n) for n in (300, 70, 90)]
    return spec, sequences, Oracle(config, weights.float32).logits(sequences)


WAYS = {
    "plain": ({"graph": "plain"}, False),
    "plain-address": ({"graph": "plain"}, True),
    "static": ({"graph": "plain", "static": True}, False),
    "static-address": ({"graph": "plain", "static": True}, True),
    "contrib": ({"graph": "contrib"}, False),
    "contrib-address": ({"graph": "contrib"}, True),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("n_seqs", [3, 1])
def test_rows_written_on_the_device_are_those_of_the_oracle(
    way, n_seqs, case, helpers, on_device, tmp_path
):
    options, by_address = WAYS[way]
    on_device(by_address)
    spec, sequences, reference = case
    driver = helpers.Driver("cpu", spec, tmp_path, options=options, n_seqs=n_seqs, max_context=400)
    loaded = driver.loaded
    assert (loaded.details["binding"], loaded.sampling) == ("device", "device")
    assert not loaded.notes
    at = [0, 0, 0][:n_seqs]

    def check(done, slot):
        wanted = reference[slot][at[slot] - 1]
        np.testing.assert_allclose(done.logits[slot + 10], wanted, atol=TOLERANCE)

    for ends in ((150, 40, 60), (280, 55, 80)):
        for slot in range(n_seqs):
            done = driver.prefill(slot, at[slot], sequences[slot][at[slot] : ends[slot]])
            at[slot] = ends[slot]
            check(done, slot)
        for batch in ([0, 1, 2], [0, 2], [1], [2, 1, 0]):
            batch = [slot for slot in batch if slot < n_seqs]
            if not batch:
                continue
            tokens = [sequences[slot][at[slot] : at[slot] + 1] for slot in batch]
            done = driver.run(batch, [at[slot] for slot in batch], tokens)
            for index, slot in enumerate(batch):
                at[slot] += 1
                check(done, slot)
                wanted = reference[slot][at[slot] - 1]
                assert done.sampled[index] == wanted.argmax()
                np.testing.assert_allclose(done.top2[index], np.sort(wanted)[:-3:-1], atol=1e-4)
    # To the reserved slot and back to another one, over what that holds.
    length, last = at[0], n_seqs - 1
    ops = (KvOp("copy", 0, n_seqs, length, 10), KvOp("copy", n_seqs, last, length, 10))
    token = sequences[0][length : length + 1]
    done = driver.run([last], [length], [token], ops=ops)
    np.testing.assert_allclose(done.logits[last + 10], reference[0][length], atol=TOLERANCE)
    assert done.launches[0].phase == "kv"
    assert done.kv_copied_bytes == 2 * length * ROW
    with pytest.raises(ContractError, match="prefixes alone"):
        driver.run([n_seqs], [length], [token])


@pytest.mark.parametrize("by_address", [False, True])
def test_bytes_over_the_bus_do_not_grow_with_the_context(
    by_address, case, helpers, on_device, tmp_path
):
    on_device(by_address)
    spec, sequences, _ = case
    driver = helpers.Driver("cpu", spec, tmp_path, options={"graph": "plain"}, n_seqs=2)
    found = []
    for length in (20, 250):
        driver.prefill(0, 0, sequences[0][:length])
        done = driver.run([0], [length], [sequences[0][length : length + 1]], logits=False)
        found.append((done.h2d_bytes, done.d2h_bytes, done.kv_copied_bytes))
    assert found[0] == found[1]
    rows = 1 if by_address else 2
    places = 2 * 2 * 3 * 8  # read and written: 2 heads, 3 numbers each
    assert found[0] == (rows * 2 * 4 + places, rows * 24, 0)


def test_growing_is_a_counted_copy_on_the_device(case, helpers, on_device, tmp_path):
    on_device(False)
    spec, sequences, _ = case
    driver = helpers.Driver("cpu", spec, tmp_path, options={"graph": "plain"}, n_seqs=2)
    driver.prefill(0, 0, sequences[0][:256])
    driver.prefill(1, 0, sequences[1][:50])
    assert driver.backend._loaded().cache.capacity == 256
    done = driver.run([0], [256], [sequences[0][256:257]], logits=False)
    assert done.kv_copied_bytes == (256 + 50) * ROW
    assert done.h2d_bytes < (256 + 50) * ROW
    assert driver.backend._loaded().cache.capacity > 256


def test_a_provider_that_does_not_move_rows_is_rebound_and_says_so(
    case, helpers, tmp_path, monkeypatch
):
    from chipmark.backends.ort import binding

    rebind = binding.BindingChoice("rebind", allocate_host)
    monkeypatch.setattr(binding, "choose_binding", lambda session, device: rebind)
    monkeypatch.setattr(kv_place, "device_memory", lambda located: memory_of_a_device(False))

    def refuses(located, *_):
        raise NotTakenWholeError("this plug-in has no ScatterND")

    monkeypatch.setattr("chipmark.backends.ort.opener.open_whole", refuses)
    spec, sequences, _ = case
    driver = helpers.Driver("cpu", spec, tmp_path, options={"graph": "plain"})
    assert driver.loaded.details["binding"] == "rebind"
    ((code, text),) = driver.loaded.notes
    assert code == "kv_over_bus"
    assert "this plug-in has no ScatterND" in text
    driver.prefill(0, 0, sequences[0][:20])
    done = driver.run([0], [20], [sequences[0][20:21]], logits=False)
    assert done.h2d_bytes > 256 * ROW


def test_logits_cross_the_bus_where_nothing_samples_and_the_row_says_so(
    case, helpers, on_device, tmp_path, monkeypatch
):
    from chipmark.backends.ort import sampling

    on_device(False)
    monkeypatch.setattr(sampling.DeviceSampler, "is_right", lambda self: False)
    spec, sequences, _ = case
    driver = helpers.Driver("cpu", spec, tmp_path, options={"graph": "plain"}, n_seqs=1)
    assert driver.loaded.sampling == "host"
    assert [code for code, _ in driver.loaded.notes] == ["logits_over_bus"]
    done = driver.prefill(0, 0, sequences[0][:20])
    assert done.d2h_bytes == 512 * 4


@pytest.mark.parametrize("by", ["TopK", "ArgMax"])
def test_both_samplings_are_the_hosts(by):
    import onnxruntime as ort

    from chipmark.backends.ort.sampling import DeviceSampler
    from chipmark.backends.ort.traffic import Traffic

    def open_whole(graph):
        return ort.InferenceSession(graph.serialize({}, {}), providers=["CPUExecutionProvider"])

    for static in (False, True):
        sampler = DeviceSampler(97, Traffic(), memory_of_a_device(False), open_whole, static, by)
        assert sampler.is_right()


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("by_address", [False, True])
def test_the_probe_tells_memory_that_is_seen_from_a_snapshot(static, by_address, monkeypatch):
    import onnxruntime as ort

    def open_whole(graph):
        return ort.InferenceSession(graph.serialize({}, {}), providers=["CPUExecutionProvider"])

    memory = memory_of_a_device(by_address)
    assert is_live_on_device(memory, open_whole, static)

    class Snapshot(type(memory)):
        def tensors(self, names, shape, dtype):
            tensors = super().tensors(names, shape, dtype)
            bind = type(tensors).bind

            def copied(self, io, prefix, first, last, *, output=False):
                if not prefix:  # the session that reads: it is given a copy
                    values = tuple(
                        ort.OrtValue.ortvalue_from_numpy(v.numpy().copy()) for v in self.values
                    )
                    self = dataclasses.replace(self, values=values)
                    keep.append(self)
                bind(self, io, prefix, first, last, output=output)

            keep = []
            kind = type("Copied", (type(tensors),), {"bind": copied})
            return kind(*(getattr(tensors, f.name) for f in dataclasses.fields(tensors)))

    snapshot = Snapshot("told so", memory.addresses, memory.make)
    assert not is_live_on_device(snapshot, open_whole, static)


def test_the_hosts_own_memory_is_no_devices():
    assert device_memory(locate(find_provider("cpu"))) is None
